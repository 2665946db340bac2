"""Bad calls end at once, in one line that says what was wanted and what came."""

import re

import pytest
import torch
from cases import LOSSES, each_loss
from messages import message_of

import mtlfast
import mtlfast.functional as MF
from mtlfast.ops import backends, catalogue, native

BCE = MF.binary_cross_entropy_with_logits
X = torch.zeros(4, 3)
Y = torch.ones(4, 3)
SPARSE = Y.to_sparse()

# name: (call, exception, pattern of the message)
BAD = {
    "target of another shape": (
        lambda f: f(X, Y[:3]),
        ValueError,
        r"target must have the shape of input, \(4, 3\); got \(3, 3\)",
    ),
    "target transposed": (lambda f: f(X, Y.t(), mask=Y.bool()), ValueError, r"target .* \(3, 4\)"),
    "mask of another shape": (
        lambda f: f(X, Y, mask=torch.ones(4, 2, dtype=torch.bool)),
        ValueError,
        r"mask must broadcast to the shape of input, \(4, 3\); got \(4, 2\)",
    ),
    "mask larger than the input": (
        lambda f: f(X, Y, mask=torch.ones(2, 4, 3, dtype=torch.bool)),
        ValueError,
        r"mask must broadcast to the shape of input, \(4, 3\); got \(2, 4, 3\)",
    ),
    "mask of floats": (
        lambda f: f(X, Y, mask=Y),
        TypeError,
        r"mask must be bool.*float32.*bool\(\)",
    ),
    "mask of bytes": (lambda f: f(X, Y, mask=Y.byte()), TypeError, r"mask must be bool.*uint8"),
    "task_weight per row": (
        lambda f: f(X, Y, task_weight=torch.ones(4)),
        ValueError,
        r"task_weight must have shape \(3,\), one per task; got \(4,\)",
    ),
    "task_weight of one": (
        lambda f: f(X, Y, task_weight=torch.ones(())),
        ValueError,
        r"task_weight must have shape \(3,\), one per task; got \(\)",
    ),
    "task_weight as a list": (
        lambda f: f(X, Y, task_weight=[1.0, 1.0, 1.0]),
        TypeError,
        r"task_weight must be a Tensor; got list",
    ),
    "sample_weight per task": (
        lambda f: f(X, Y, sample_weight=torch.ones(3)),
        ValueError,
        r"sample_weight must have shape \(4,\), one per row; got \(3,\)",
    ),
    "sample_weight as a column": (
        lambda f: f(X, Y, sample_weight=torch.ones(4, 1)),
        ValueError,
        r"sample_weight must have shape \(4,\), one per row; got \(4, 1\)",
    ),
    "integer logits": (
        lambda f: f(X.long(), Y),
        TypeError,
        r"input must be float32.*got torch.int64",
    ),
    "bool logits": (lambda f: f(X.bool(), Y), TypeError, r"input must be float32.*got torch.bool"),
    "complex logits": (lambda f: f(X * 1j, Y), TypeError, r"input must be .*got torch.complex64"),
    "complex target": (lambda f: f(X, Y * 1j), TypeError, r"target must be .*got torch.complex64"),
    "complex task_weight": (
        lambda f: f(X, Y, task_weight=torch.ones(3) * 1j),
        TypeError,
        r"task_weight must be a real number type; got torch.complex64",
    ),
    "target as a list": (
        lambda f: f(X, [[1] * 3] * 4),
        TypeError,
        r"target must be a Tensor; got list",
    ),
    "no target": (lambda f: f(X, None), TypeError, r"target must be a Tensor; got NoneType"),
    "target on another device": (
        lambda f: f(X, Y.to("meta")),
        ValueError,
        r"target must be on the device of input, cpu; got meta: call target.to\('cpu'\)",
    ),
    "mask on another device": (
        lambda f: f(X, Y, mask=Y.bool().to("meta")),
        ValueError,
        r"mask must be on the device of input, cpu; got meta",
    ),
    "task_weight on another device": (
        lambda f: f(X, Y, task_weight=torch.ones(3, device="meta")),
        ValueError,
        r"task_weight must be on the device of input, cpu; got meta",
    ),
    "sparse target": (lambda f: f(X, SPARSE), ValueError, r"target must be dense.*to_dense\(\)"),
    "sparse logits": (lambda f: f(SPARSE, Y), ValueError, r"input must be dense.*to_dense\(\)"),
    "unknown reduction": (
        lambda f: f(X, Y, reduction="average"),
        ValueError,
        r"reduction must be one of none, sum, mean, batchmean, taskmean; got 'average'",
    ),
    "reduction None": (
        lambda f: f(X, Y, reduction=None),
        ValueError,
        r"reduction must be .*got None",
    ),
    "unknown backend": (
        lambda f: f(X, Y, backend="cuda"),
        ValueError,
        r"backend must be one of auto, native, triton, reference; got 'cuda'",
    ),
}

BAD_OPTIONS = {
    "label_smoothing above 1": (
        lambda: BCE(X, Y, label_smoothing=1.5),
        r"label_smoothing must be in \[0, 1\]; got 1.5",
    ),
    "label_smoothing below 0": (
        lambda: MF.sigmoid_focal_loss(X, Y, label_smoothing=-0.1),
        r"label_smoothing must be in \[0, 1\]; got -0.1",
    ),
    "label_smoothing NaN": (
        lambda: MF.asymmetric_loss(X, Y, label_smoothing=float("nan")),
        r"label_smoothing must be in \[0, 1\]; got nan",
    ),
    "gamma": (lambda: MF.sigmoid_focal_loss(X, Y, gamma=-1), r"gamma must be at least 0; got -1"),
    "gamma_neg": (lambda: MF.asymmetric_loss(X, Y, gamma_neg=-1), r"gamma_neg must be at least 0"),
    "gamma_pos": (lambda: MF.asymmetric_loss(X, Y, gamma_pos=-1), r"gamma_pos must be at least 0"),
    "clip": (lambda: MF.asymmetric_loss(X, Y, clip=1.5), r"clip must be in \[0, 1\]; got 1.5"),
    "eps": (lambda: MF.asymmetric_loss(X, Y, eps=0), r"eps must be in .*; got 0"),
    "beta": (lambda: MF.smooth_l1_loss(X, Y, beta=-0.5), r"beta must be at least 0; got -0.5"),
    "pos_weight": (
        lambda: BCE(X, Y, pos_weight=torch.ones(4)),
        r"pos_weight must broadcast to the shape of input, \(4, 3\); got \(4,\)",
    ),
    "weight": (
        lambda: BCE(X, Y, weight=torch.ones(2, 4, 3)),
        r"weight must broadcast to the shape of input, \(4, 3\); got \(2, 4, 3\)",
    ),
    "weight of a regression": (
        lambda: MF.mse_loss(X, Y, weight=torch.ones(2)),
        r"weight must broadcast to the shape of input, \(4, 3\); got \(2,\)",
    ),
    "module": (
        lambda: mtlfast.BCEWithLogitsLoss(pos_weight=torch.ones(2))(X, Y),
        r"pos_weight must broadcast to the shape of input, \(4, 3\); got \(2,\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
@each_loss
def test_bad_tensor_is_told_in_one_line(loss, name, no_work):
    call, kind, pattern = BAD[name]
    if loss == "sigmoid_focal_loss":  # torchvision's names
        pattern = re.sub(r"\b(input|target)\b", r"\1s?", pattern)
    message_of(lambda: call(LOSSES[loss].function), kind, pattern)


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_option_is_told_in_one_line(name, no_work):
    message_of(BAD_OPTIONS[name][0], ValueError, BAD_OPTIONS[name][1])


@pytest.mark.parametrize(
    "backend, device, remedy",
    [
        ("native", "meta", "use backend=|pip install"),
        ("triton", "meta", "use backend=|pip install"),
        ("triton", "cpu", "TRITON_INTERPRET=1|pip install"),
        ("native", "cuda", "nvcc|no GPU|pip install"),
        ("triton", "cuda", "no GPU|pip install"),
    ],
)
def test_absent_backend_says_why_and_what_to_do(backend, device, remedy, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if backends.reason_absent(backend, device) is None:
        pytest.skip(f"{backend} runs on {device} here")
    wanted = rf"backend='{backend}' can't run on {device}: .*({remedy})"
    select = lambda: backends.select(backend, device, torch.float32)  # noqa: E731
    message_of(select, RuntimeError, wanted)


def test_installation_without_native_part_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(native, "PATH", None)
    reason = backends.reason_absent("native", "cpu")
    assert "C++ compiler" in reason and "pip install --no-build-isolation" in reason
    assert "\n" not in reason and reason in mtlfast.info()
    assert mtlfast.available_backends()["native"] == set()


native_only = pytest.mark.skipif(native.PATH is None, reason="this installation has no native part")


def numbered(loss, params, reduction):
    numbers = {name: i for i, name in enumerate(catalogue.KERNELS["pointwise"])}
    reductions = {name: i for i, name in enumerate(catalogue.REDUCTIONS)}
    return numbers.get(loss, 99), params, reductions.get(reduction, 99)


def forward(x=X, y=Y, mask=None, weight=None, loss=None, params=(0.0,), reduction="mean", **more):
    operands = [mask, weight, None, more.get("sample_weight"), more.get("task_weight")]
    settings = (loss or "binary_cross_entropy_with_logits", params, reduction)
    return torch.ops.mtlfast.pointwise_forward(x, y, *operands, *numbered(*settings))


def backward(grad_loss=None, grad_task_loss=None, **more):
    _, _, count, denominator = forward()
    count, denominator = more.get("count", count), more.get("denominator", denominator)
    given = (grad_loss, grad_task_loss, X, Y, *[None] * 5, count, denominator)
    settings = ("binary_cross_entropy_with_logits", [0.0], more.get("reduction", "mean"))
    return torch.ops.mtlfast.pointwise_backward(*given, *numbered(*settings))


MISUSE = {
    "unknown loss": lambda: forward(loss="hinge"),
    "unknown reduction": lambda: forward(reduction="average"),
    "too few params": lambda: forward(params=()),
    "too many params": lambda: forward(params=(0.0,) * 9),
    "one dimension": lambda: forward(x=X[0], y=Y[0]),
    "target of another shape": lambda: forward(y=torch.ones(4, 2)),
    "not contiguous": lambda: forward(x=torch.zeros(3, 4).t()),
    "integer logits": lambda: forward(x=X.long()),
    "complex target": lambda: forward(y=Y * 1j),
    "mask of floats": lambda: forward(mask=Y),
    "mask not expanded": lambda: forward(mask=torch.ones(3, dtype=torch.bool)),
    "weight in float64": lambda: forward(weight=Y.double()),
    "sample_weight not expanded": lambda: forward(sample_weight=torch.ones(4)),
    "task_weight too long": lambda: forward(task_weight=torch.ones(4)),
    "task_weight in float64": lambda: forward(task_weight=torch.ones(3).double()),
    "grad_loss of another shape": lambda: backward(torch.ones(4)),
    "grad_loss in float64": lambda: backward(torch.ones(()).double()),
    "grad_loss of a mean for none": lambda: backward(torch.ones(()), reduction="none"),
    "grad_task_loss too short": lambda: backward(None, torch.ones(2)),
    "count in float32": lambda: backward(torch.ones(()), count=torch.ones(3)),
    "denominator too short": lambda: backward(torch.ones(()), denominator=torch.ones(2)),
}


@native_only
@pytest.mark.parametrize("name", MISUSE)
def test_misuse_of_an_op_raises_and_does_not_crash(name):
    with pytest.raises(RuntimeError, match="mtlfast: "):
        MISUSE[name]()


@native_only
def test_ops_take_what_the_table_says_is_right():
    assert forward()[0].shape == () and backward(torch.ones(())).shape == (4, 3)
    assert forward(reduction="none")[0].shape == (4, 3)
