"""Per-task losses as TorchJD (torchjd.org) takes them: one gradient per task, then one direction.

A weighting decides with numbers how much each task counts; an aggregator looks at the tasks'
gradients instead, and can find a direction in which no task's loss increases. What it needs are the
losses of the tasks, each differentiable: ``TaskLosses.loss``.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import mtlfast.functional as MF

pytest.importorskip("torchjd", reason="torchjd is not installed")

from torchjd.aggregation import MGDA, Mean, Sum, UPGrad
from torchjd.autojac import backward, jac_to_grad, mtl_backward


class System:
    """A body, three heads, a batch with missing labels; the tasks' gradients conflict."""

    def __init__(self):
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 5, dtype=torch.float64), nn.Tanh())
        self.heads = nn.ModuleList(nn.Linear(5, 1, dtype=torch.float64) for _ in range(3))
        self.x = torch.randn(32, 6, dtype=torch.float64)
        self.target = torch.stack((self.x[:, 0] > 0, self.x[:, 0] < 0.2, self.x[:, 1] > 0), 1)
        self.target = self.target.double().masked_fill(torch.rand(32, 3) < 0.2, math.nan)

    def parameters(self):
        return [*self.body.parameters(), *self.heads.parameters()]

    def losses(self):
        """Returns the features, and the (T,) mean losses of the tasks."""
        features = self.body(self.x)
        logits = torch.cat([head(features) for head in self.heads], 1)
        _, tasks = MF.binary_cross_entropy_with_logits(logits, self.target, return_tasks=True)
        return features, tasks.loss

    def grads(self):
        return [parameter.grad for parameter in self.parameters()]


@pytest.mark.parametrize("aggregator, reduce", [(Mean(), torch.mean), (Sum(), torch.sum)])
def test_a_linear_aggregator_equals_ordinary_backward(aggregator, reduce):
    one, other = System(), System()
    backward(one.losses()[1])
    jac_to_grad(one.parameters(), aggregator)
    reduce(other.losses()[1]).backward()
    for grad, expected in zip(one.grads(), other.grads(), strict=True):
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("kind", [UPGrad, MGDA])
def test_the_direction_of_a_careful_aggregator_increases_no_loss(kind):
    if kind is UPGrad:
        pytest.importorskip("quadprog", reason="UPGrad needs torchjd[quadprog-projector]")
    system = System()
    shared = list(system.body.parameters())
    features, losses = system.losses()
    rows = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses]
    jacobian = torch.stack([torch.cat([grad.flatten() for grad in row]) for row in rows])
    gramian = jacobian @ jacobian.T
    assert (gramian < 0).any(), "nothing to reconcile"

    # Each head gets the gradient of its own loss, the body what the aggregator makes of all three.
    # The losses come from one op, so its graph must last until the last of them.
    mtl_backward(list(losses), features=features, retain_graph=True)
    jac_to_grad(shared, kind())

    direction = torch.cat([parameter.grad.flatten() for parameter in shared])
    slopes = jacobian @ direction  # how fast each loss falls along -direction
    assert (slopes > -1e-3 * gramian.diagonal().max()).all() and slopes.sum() > 0
    before = losses.detach()
    with torch.no_grad():
        for parameter in shared:
            parameter -= 1e-3 * parameter.grad / direction.norm()
    assert (system.losses()[1] <= before + 1e-6).all()
    for head, loss in zip(system.heads, losses, strict=True):
        assert head.weight.grad.any() and loss.isfinite()
