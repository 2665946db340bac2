"""Batches without rows, or tasks, of any strides: loss 0 and gradient 0."""

import pytest
import torch
from backends import each_backend, each_inbatch_backend
from batch_cases import LOSSES as BATCH_LOSSES
from batch_cases import Batch
from cases import LOSSES, Case, Setting
from row_cases import ROW_LOSSES, RowCase, RowSetting

FACTORS = {"mask": "full", "weight": "task", "task_weight": "task", "sample_weight": "row"}
CASES = [
    *(Case(loss, 0, Setting("empty", (5, 5), "hard", 0.2, FACTORS)) for loss in LOSSES),
    *(
        RowCase(loss, variant, RowSetting("empty", (5, 5)))
        for loss, row in ROW_LOSSES.items()
        for variant in range(len(row.variants))
    ),
]
# Of (5, 5) tensors; a slice keeps the strides of what it was cut from.
CUTS = {
    "cut off": lambda t: t[:0],
    "transposed": lambda t: t.t()[:0],
    "expanded": lambda t: t[:1].expand(5, 5)[:0],
    "apart": lambda t: t.repeat_interleave(2, 1)[:0, ::2],
}
PER_TASK = ("weight", "task_weight")
each_cut = pytest.mark.parametrize("cut", CUTS)


def without_rows(inputs, cut):
    """Returns inputs of which the tensors of one element or more for each row have none."""

    def change(name, tensor):
        if tensor.shape == (5, 5):
            return CUTS[cut](tensor)
        return tensor[:0] if len(tensor.shape) and name not in PER_TASK else tensor

    return inputs.replace({name: change(name, t) for name, t in inputs.named().items()})


@each_backend
@each_cut
@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_rows_give_0(case, cut, backend):
    inputs = without_rows(case.inputs(torch.float32, backend.device), cut)
    for reduction in case.REDUCTIONS:
        options = {"reduction": reduction, "backend": backend.name}
        for value in case.values(inputs, **options).values():
            assert not value.any()
        for gradient in case.gradients(inputs, **options).values():
            assert not gradient.any()


@each_inbatch_backend
@each_cut
@pytest.mark.parametrize("loss", BATCH_LOSSES, ids=str)
def test_no_rows_of_a_batch_give_0(loss, cut, backend):
    x = torch.randn(5, 5, device=backend.device)
    labels = torch.arange(5, device=backend.device)
    others = (x, labels)
    for given in (Batch(CUTS[cut](x), labels[:0]), Batch(CUTS[cut](x), labels[:0], *others)):
        for found in given.gradients(loss, backend=backend.name):
            assert not found.any()


@each_backend
@pytest.mark.parametrize("loss", LOSSES)
def test_no_tasks_give_0(loss, backend):
    inputs = Case(loss, 0, Setting("empty", (5, 5), "hard")).inputs(torch.float32, backend.device)
    for cut in CUTS:
        none = inputs.map(lambda t, cut=cut: CUTS[cut](t).t() if t.dim() == 2 else t)
        for reduction in Case.REDUCTIONS:
            case = Case(loss, 0, Setting("empty", (5, 0), "hard"))
            for value in case.values(none, reduction=reduction, backend=backend.name).values():
                assert value.shape[-1:] in ((), (0,)) and not value.any()
