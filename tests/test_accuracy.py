"""Values, per-task losses, counts and gradients against float64."""

import torch
from cases import REDUCTIONS, assert_accurate, each_fused_backend_and_dtype, each_case


@each_fused_backend_and_dtype
@each_case
def test_value_matches_float64(case, backend, dtype):
    inputs = case.inputs(dtype, backend.device)
    for reduction in REDUCTIONS:
        got = case.values(inputs, reduction=reduction, backend=backend.name)
        plain = case.values(inputs, reduction=reduction, backend="reference")
        exact = case.values(inputs.double(), reduction=reduction, backend="reference")
        for name in ("loss", "task_loss"):
            assert_accurate(f"{name} {reduction}", got[name], plain[name], exact[name])
        assert torch.equal(got["count"], exact["count"]), reduction


@each_fused_backend_and_dtype
@each_case
def test_gradient_matches_float64(case, backend, dtype):
    inputs = case.inputs(dtype, backend.device)
    for reduction in REDUCTIONS:
        got = case.gradients(inputs, reduction=reduction, backend=backend.name)
        plain = case.gradients(inputs, reduction=reduction, backend="reference")
        exact = case.gradients(inputs.double(), reduction=reduction, backend="reference")
        assert got.keys() == exact.keys()
        for name in got:
            assert_accurate(f"d {name} {reduction}", got[name], plain[name], exact[name])
