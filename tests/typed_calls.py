"""What a type checker makes of calls: test_types.py runs mypy on this file, and nobody runs it."""

from typing import assert_type

import torch
from torch import Tensor

import mtlfast
import mtlfast.functional as MF

x, y, flag = torch.zeros(2, 2), torch.ones(2, 2), bool(torch.rand(()) > 0.5)
bce = MF.binary_cross_entropy_with_logits

assert_type(bce(x, y), Tensor)
assert_type(bce(x, y, None, None, None, "sum", pos_weight=x), Tensor)
assert_type(MF.mse_loss(input=x, target=y, mask=x > 0, return_tasks=False), Tensor)
assert_type(bce(x, y, return_tasks=True), tuple[Tensor, MF.TaskLosses])
assert_type(MF.sigmoid_focal_loss(x, y, 0.5, gamma=1.0, return_tasks=True)[1].count, Tensor)
assert_type(MF.l1_loss(x, y, return_tasks=flag), Tensor | tuple[Tensor, MF.TaskLosses])

bce(x)  # type: ignore[call-overload]
bce(x, y, reducton="sum")  # type: ignore[call-overload]
bce(x, y, reducton="sum", return_tasks=True)  # type: ignore[call-overload]
MF.mse_loss(x, y, reduction=3)  # type: ignore[call-overload]
MF.mse_loss(x, y, sample_weight=2.0, return_tasks=True)  # type: ignore[call-overload]
MF.smooth_l1_loss(x, y, gamma=2.0)  # type: ignore[call-overload]

assert_type(MF.contrastive_loss(x, y, x[:, 0] > 0, distance="cosine", scale=x.sum()), Tensor)
assert_type(MF.batch_triplet_loss(x, x[:, 0].long(), mining="hard"), Tensor)
assert_type(MF.weighted_sum(x[0], y[0], normalize="mean"), Tensor)
MF.contrastive_loss(x, y)  # type: ignore[call-arg]
MF.triplet_margin_loss(x, y, x, margin="1")  # type: ignore[arg-type]
MF.weighted_sum(x[0], y[0], normalize="max")  # type: ignore[arg-type]

weighting = mtlfast.weighting.ValidationLossTrend(num_tasks=2)
assert_type(weighting.weights, Tensor)
weighting.observe([1.0, 2.0])  # type: ignore[arg-type]
mtlfast.weighting.Fixed("12")  # type: ignore[arg-type]
assert_type(mtlfast.distributed.gather_embeddings(x), Tensor)
assert_type(mtlfast.available_backends(), dict[str, set[str]])
