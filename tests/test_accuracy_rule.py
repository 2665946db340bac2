"""The accuracy rule itself: what is as exact as plain PyTorch passes, and planted faults do not."""

import itertools

import pytest
import scales
import torch
from accuracy import Output, _worst, assert_accurate, deviations, table, tolerance
from batch_cases import BATCHES, clear_batch
from batch_cases import LOSSES as BATCH_LOSSES
from cases import Case, Setting
from row_cases import RowCase, RowSetting

BCE, MSE, TRIPLET = "binary_cross_entropy_with_logits", "mse_loss", "triplet_margin_loss"
EPS = torch.finfo(torch.float32).eps
POINTWISE = Setting(
    "planted", (64, 40), "hard", 0.2, {"task_weight": "task", "sample_weight": "row"}
)
CASES = {
    **{loss: Case(loss, 0, POINTWISE) for loss in (BCE, "sigmoid_focal_loss", "asymmetric_loss")},
    **{loss: Case(loss, 0, POINTWISE) for loss in (MSE, "l1_loss", "smooth_l1_loss")},
    "contrastive_loss": RowCase("contrastive_loss", 0, RowSetting("planted", (64, 24))),
    TRIPLET: RowCase(TRIPLET, 0, RowSetting("planted", (64, 24), weighted=True)),
    "normalized_triplet_loss": RowCase(
        "normalized_triplet_loss", 0, RowSetting("planted", (64, 24))
    ),
}


def judged(case, reduction, dtype=torch.float32):
    """Returns (plain, exact, scale) of every output of a case."""
    inputs = case.inputs(dtype)
    options = {"reduction": reduction, "backend": "reference"}
    exact = case.results(inputs.double(), **options)
    of = scales.of_rows if isinstance(case, RowCase) else scales.of_elements
    scale = of(case, inputs.double(), exact, **options)
    plain = case.results(inputs, **options)
    return {name: (plain[name], exact[name], scale[name]) for name in scale}


def passes(got, plain, exact, scale, inputs=torch.float32):
    kept = dict(_worst)
    try:
        assert_accurate(Output("planted", "none", inputs, "", ""), got, plain, exact, scale)
    except AssertionError:
        return False
    finally:
        _worst.clear()
        _worst.update(kept)
    return True


each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_reduction = pytest.mark.parametrize("reduction", ["none", "sum", "mean"])


@each_case
@each_reduction
def test_rounded_truth_and_plain_pytorch_pass(case, reduction):
    for name, (plain, exact, scale) in judged(case, reduction).items():
        assert passes(exact.to(plain.dtype), plain, exact, scale), name
        assert passes(plain, plain, exact, scale), name


@each_case
@each_reduction
def test_a_factor_of_1_001_fails(case, reduction):
    for name, (plain, exact, scale) in judged(case, reduction).items():
        if exact.any():  # the random gradient of one number may be 0
            assert not passes(1.001 * plain, plain, exact, scale), name


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_element_in_a_thousand_wrong_by_100_eps_fails(case, dtype):
    """By 100 eps of the element's own scale and value, in the largest output of each kind."""
    for name, (plain, exact, scale) in judged(case, "none", dtype).items():
        if plain.numel() < 1000 or plain.dtype != dtype:
            continue
        wrong = plain.double().flatten()
        off = 100 * torch.finfo(dtype).eps * (scale + exact.abs()).flatten()
        at = torch.arange(len(wrong)) % 1000 == int(off[:1000].argmax())
        got = torch.where(at, wrong + off, wrong).reshape(plain.shape).to(dtype)
        assert not passes(got, plain, exact, scale, dtype), name


def test_one_element_wrong_by_100_eps_of_itself_fails_where_nothing_cancels():
    case = CASES[MSE]
    plain, exact, scale = judged(case, "none")["d input"]
    got = plain.clone().flatten()
    at = got.abs().argmax()
    got[at] *= 1 + 100 * EPS
    assert not passes(got.reshape(plain.shape), plain, exact, scale)


def softplus(x, log1p):
    return x.clamp(min=0) + log1p(torch.exp(-x.abs()))


def short_log1p(e):
    return e * (1 - 0.307 * e)


@each_reduction
def test_a_softplus_that_is_too_short_fails(reduction):
    case = CASES[BCE]
    inputs = case.inputs(torch.float32)
    plain, exact, scale = judged(case, reduction)["loss"]
    present = ~inputs.target.isnan()
    y, x = inputs.target.nan_to_num(0), inputs.logits
    factors = inputs.factors["task_weight"] * inputs.factors["sample_weight"][:, None]
    for log1p, right in ((torch.log1p, True), (short_log1p, False)):
        elements = (1 - y) * softplus(x, log1p) + y * softplus(-x, log1p)
        elements = torch.where(present, elements * factors, 0)
        reduced = {"none": elements, "sum": elements.sum(), "mean": elements.sum() / present.sum()}
        assert passes(reduced[reduction], plain, exact, scale) is right


@each_reduction
def test_a_gradient_of_zeros_fails_for_small_residuals(reduction):
    case = CASES[MSE]
    inputs = case.inputs(torch.float32)
    inputs = inputs._replace(logits=inputs.target.nan_to_num(0) + 1e-4)
    options = {"reduction": reduction, "backend": "reference"}
    plain, wide = case.results(inputs, **options), inputs.double()
    exact = case.results(wide, **options)
    scale = scales.of_elements(case, wide, exact, **options)["d input"]
    three = plain["d input"], exact["d input"], scale
    assert passes(three[0], *three)
    assert not passes(torch.zeros_like(three[0]), *three)


@each_case
def test_dropped_weights_and_shifted_rows_fail(case):
    """Each fault leaves plausible numbers: another row's, or those of a task without weight."""
    for name, (plain, exact, scale) in judged(case, "none").items():
        if plain.dim() == 2:
            assert not passes(plain.roll(1, 0), plain, exact, scale), name
    inputs = case.inputs(torch.float32)
    for factor in ("task_weight", "sample_weight"):
        if factor in inputs.factors:
            ones = {**inputs.factors, factor: torch.ones_like(inputs.factors[factor])}
            got = case.results(inputs._replace(factors=ones), reduction="none", backend="reference")
            for name in ("loss", "d input" if "d input" in got else "d x0"):
                assert not passes(got[name], *judged(case, "none")[name]), (factor, name)


@each_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_in_16_bits_fail(case, dtype):
    """Of 16-bit inputs too, whose losses are summed in float32 and rounded once."""
    if isinstance(case, RowCase):
        case = RowCase(case.loss, 0, RowSetting("planted", (3000, 4)))
    elements = judged(case, "none", dtype)["loss"][0]
    summed = judged(case, "sum", dtype)["loss"]
    total = torch.zeros((), dtype=dtype)
    for element in elements.flatten():
        total += element
    assert passes(summed[0], *summed, inputs=dtype)
    assert not passes(total, *summed, inputs=dtype)


def test_task_losses_of_16_bit_inputs_keep_the_digits_of_float32():
    assert tolerance(torch.float32, torch.bfloat16) == 64 * EPS
    for loss, dtype in itertools.product((BCE, MSE), (torch.bfloat16, torch.float16)):
        plain, exact, scale = judged(CASES[loss], "mean", dtype)["task_loss"]
        assert passes(exact.float() * (1 + 5 * EPS), plain, exact, scale, dtype)
        assert not passes(exact.to(dtype).float(), plain, exact, scale, dtype)


@pytest.mark.parametrize("odd", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_must_be_the_same_and_hides_nothing(odd):
    exact = torch.linspace(1, 2, 9, dtype=torch.float64)
    plain = exact.float()
    plain[4] = odd
    assert passes(plain, plain, exact, 1.0)
    for wrong in (0.0, torch.inf if odd != torch.inf else torch.nan):
        got = plain.clone()
        got[4] = wrong
        assert not passes(got, plain, exact, 1.0)
    got = plain.clone()
    got[5] *= 1.001
    assert not passes(got, plain, exact, 1.0)
    got[5] = torch.inf
    assert not passes(got, plain, exact, 1.0)


def test_where_nothing_is_there_nothing_but_0_is_right():
    exact = torch.tensor([0.0, 1.0], dtype=torch.float64)
    plain = torch.tensor([1e-30, 1.0])
    assert passes(torch.tensor([0.0, 1.0]), plain, exact, 0.0)
    assert not passes(torch.tensor([1e-30, 1.0]), plain, exact, 0.0)


@pytest.mark.parametrize("loss", [BATCH_LOSSES[i] for i in (0, 5, 10, 15)], ids=str)
def test_faults_of_in_batch_losses_fail(loss):
    batch = clear_batch(BATCHES["classes"], loss, torch.float32)
    wide, options = batch.to(torch.float64), {"reduction": "sum", "backend": "reference"}
    plain, exact = batch.gradients(loss, **options), wide.gradients(loss, **options)
    for three in zip(plain, exact, scales.of_batch(loss, wide, **options), strict=True):
        assert passes(three[0], *three)
        assert not passes(1.001 * three[0], *three)
        if three[0].dim():
            assert not passes(three[0].roll(1, 0), *three)
            off = deviations(three[0], *three)[0].reshape(three[0].shape).argmax()
            got = three[0].clone().flatten()
            got[off] += (100 * EPS * (three[2] + three[1].abs())).flatten()[off]
            assert not passes(got.reshape(three[0].shape), *three)


def test_worst_cases_of_several_processes_make_one_table(tmp_path):
    row = ["mse_loss", "native-cpu", "float32", "loss"]
    (tmp_path / "1.json").write_text(f"[{[*row, 0.5, 'one']}]".replace("'", '"'))
    (tmp_path / "2.json").write_text(f"[{[*row, 0.25, 'two']}]".replace("'", '"'))
    text, allowed = table(tmp_path)
    assert allowed and "0.50" in text and "one" in text and "two" not in text
    (tmp_path / "3.json").write_text(f"[{[*row, 1.5, 'three']}]".replace("'", '"'))
    text, allowed = table(tmp_path)
    assert not allowed and "1.50" in text
