"""The losses on rows: golden values, kinks, torch's numbers beyond its samples, invariances."""

import pytest
import torch
import torch.nn.functional as F
from backends import each_backend
from near_rows import assert_no_radial_slope
from row_cases import ROW_CASES, RowCase, RowSetting

import mtlfast
import mtlfast.functional as MF

pytestmark = pytest.mark.usefixtures("one_thread")


def loss_and_gradients(function, *rows):
    leaves = [row.detach().clone().requires_grad_() for row in rows]
    loss = function(*leaves)
    return loss.detach(), *torch.autograd.grad(loss.sum(), leaves)


def assert_same(got, expected):
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


@each_backend
def test_contrastive_loss_has_its_golden_values(backend):
    x1 = torch.tensor([[1.0, 2.0, 2.0]], device=backend.device)
    third = torch.tensor([[1.0, 2.0, 2.0]]) / 3
    for same, margin, value, slope in [
        (1, 4.0, 4.5, 3 * third),
        (0, 4.0, 0.5, -third),
        (0, 2.0, 0.0, 0 * third),
        (-1, 4.0, 0.5, -third),
    ]:
        label = torch.tensor([same], device=backend.device)
        for given in (margin, torch.tensor([margin], device=backend.device)):
            loss, grad, other = loss_and_gradients(
                lambda a, b, given=given, label=label: MF.contrastive_loss(
                    a, b, label, given, backend=backend.name
                ),
                x1,
                torch.zeros_like(x1),
            )
            torch.testing.assert_close(loss.cpu(), torch.tensor(value))
            torch.testing.assert_close(grad.cpu(), slope)
            torch.testing.assert_close(other.cpu(), -slope)


@each_backend
def test_normalized_triplet_loss_has_its_golden_values(backend):
    rows = [
        torch.tensor([row], device=backend.device) for row in ([3.0, 4.0], [4.0, 3.0], [0, 5.0])
    ]
    loss, grad, *_ = loss_and_gradients(
        lambda *rows: MF.normalized_triplet_loss(*rows, 0.6, backend=backend.name), *rows
    )
    torch.testing.assert_close(loss.cpu(), torch.tensor(0.14))
    torch.testing.assert_close(grad.cpu(), torch.tensor([[-0.1408, 0.1056]]))


def test_three_levels_are_the_quadruplet():
    rows = torch.randn(4, 6, 5, dtype=torch.float64)
    u = [F.normalize(row) for row in rows]
    d = [((u[0] - other) ** 2).sum(1) for other in u[1:]]
    m1, m2 = 0.7, 0.3
    expected = 0.5 * (F.relu(d[0] - d[1] + m1 - m2) + F.relu(d[1] - d[2] + m2))
    got = MF.hierarchical_triplet_loss(rows[0], list(rows[1:]), [m1, m2], reduction="none")
    torch.testing.assert_close(got, expected)


@each_backend
@pytest.mark.parametrize("scale", [1e-9, 1e17])
def test_gradients_of_rows_of_any_length_keep_their_digits(scale, backend):
    rows = torch.randn(3, 8, 5, device=backend.device)

    def loss(*rows):
        return MF.normalized_triplet_loss(*rows, margin=3, backend=backend.name)

    value, *grads = loss_and_gradients(loss, *rows)
    scaled, *others = loss_and_gradients(loss, *(rows * scale))
    torch.testing.assert_close(scaled, value)
    for grad, other in zip(grads, others, strict=True):
        torch.testing.assert_close(other * scale, grad, rtol=1e-5, atol=1e-6)


@each_backend
def test_equal_rows_have_finite_gradients(backend):
    x = torch.randn(4, 5, device=backend.device)
    same = torch.tensor([1, 0, 1, 0], device=backend.device)
    for distance in ("euclidean", "manhattan", "cosine"):
        _, *grads = loss_and_gradients(
            lambda a, b, distance=distance: MF.contrastive_loss(
                a, b, same, distance=distance, backend=backend.name
            ),
            x,
            x,
        )
        assert all(grad.isfinite().all() for grad in grads)
        if distance != "cosine":
            assert not any(grad.any() for grad in grads)


@each_backend
@pytest.mark.parametrize("swap", [False, True])
def test_edge_of_the_hinge_and_ties(swap, backend):
    """At h = 0 the gradient is 1, whatever torch.clamp's is; where d_an = d_pn, each gets half."""
    rows = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[1.0, 2.0]]], device=backend.device)
    if not swap:
        rows[2] = torch.tensor([[0.0, 2.0]])  # d_ap - d_an + 1 = 0
    options = {"margin": 1.5 if swap else 1.0, "eps": 0.0, "swap": swap}
    if swap:
        rows[2] = torch.tensor([[0.5, 1.0]])
    got = loss_and_gradients(
        lambda *r: MF.triplet_margin_loss(*r, backend=backend.name, **options), *rows
    )
    if swap:
        expected = loss_and_gradients(lambda *r: F.triplet_margin_loss(*r, **options), *rows)
    else:  # the same rows a little further inside the hinge, where the gradient is the same
        options["margin"] += 1e-6
        inside = loss_and_gradients(lambda *r: F.triplet_margin_loss(*r, **options), *rows)
        expected = (torch.zeros_like(inside[0]), *inside[1:])
    assert_same(got, expected)
    assert expected[1].any()


@each_backend
def test_rows_broadcast_as_in_torch(backend):
    for shapes in (
        ((4, 5), (1, 5), (4, 5)),
        ((4, 5), (4, 1), (4, 5)),
        ((5,), (5,), (5,)),
        ((2, 3, 5), (1, 3, 5), (2, 1, 5)),
    ):
        rows = [torch.randn(shape, device=backend.device) for shape in shapes]
        for reduction in ("none", "mean"):
            expected = loss_and_gradients(
                lambda *r, reduction=reduction: F.triplet_margin_loss(*r, reduction=reduction),
                *rows,
            )
            got = loss_and_gradients(
                lambda *r, reduction=reduction: MF.triplet_margin_loss(
                    *r, reduction=reduction, backend=backend.name
                ),
                *rows,
            )
            assert_same(got, expected)


@each_backend
@pytest.mark.parametrize("width", [1, 3, 16, 20])
def test_an_eps_as_large_as_the_difference_gives_distance_0(width, backend):
    rows = torch.zeros(3, 2, width, device=backend.device)
    for eps in (0.1, 0.3, 1e-5):
        rows[1], rows[2] = eps, 1
        got = MF.triplet_margin_loss(*rows, eps=eps, backend=backend.name).cpu()
        torch.testing.assert_close(got, F.triplet_margin_loss(*rows.cpu(), eps=eps))


UNIT = [
    case
    for case in ROW_CASES
    if case.setting.name == "plain"
    and (
        case.options.get("normalize")
        or case.options.get("distance") == "cosine"
        or case.loss in ("normalized_triplet_loss", "hierarchical_triplet_loss")
    )
]


@each_backend
@pytest.mark.parametrize("case", UNIT, ids=str)
def test_scale_of_a_normalised_row_does_not_matter(case, backend):
    """Hence x . dl/dx = 0 for every row, and larger rows have smaller gradients."""
    case = RowCase(case.loss, case.variant, RowSetting("scaled", (12, 9)))
    inputs = case.inputs(torch.float32, backend.device)
    options = {"reduction": "sum", "backend": backend.name}
    grads = case.gradients(inputs, **options)
    scaled = inputs.replace(
        {n: 4 * t if n.startswith("x") else t for n, t in inputs.named().items()}
    )
    torch.testing.assert_close(case(scaled, **options), case(inputs, **options))
    for name, grad in case.gradients(scaled, **options).items():
        if name not in inputs.rows:
            continue
        torch.testing.assert_close(4 * grad, grads[name], rtol=1e-5, atol=1e-5)
        across = (inputs.named()[name] * grads[name]).sum(1)
        torch.testing.assert_close(across, torch.zeros_like(across), rtol=0, atol=1e-5)


def test_weights_leave_out_one_kind_of_pair():
    x1, x2 = torch.randn(2, 8, 3)
    same = torch.arange(8) % 2 == 0
    for kind in (same, ~same):
        got = MF.contrastive_loss(x1, x2, same, 3.0, sample_weight=kind.float(), reduction="sum")
        alone = MF.contrastive_loss(x1[kind], x2[kind], same[kind], 3.0, reduction="sum")
        torch.testing.assert_close(got, alone)


@each_backend
def test_learned_scale_and_bias_get_their_gradients(backend):
    x1, x2 = torch.randn(2, 6, 4, device=backend.device)
    same = torch.arange(6, device=backend.device) < 3
    loss = mtlfast.ContrastiveLoss(
        distance="cosine",
        scale=torch.nn.Parameter(torch.tensor(2.0)),
        bias=torch.nn.Parameter(torch.tensor([-0.5])),
        backend=backend.name,
    ).to(backend.device)
    loss(x1, x2, same).backward()
    scale, bias = torch.tensor(2.0, requires_grad=True), torch.tensor(-0.5, requires_grad=True)
    logit = scale * F.cosine_similarity(x1.cpu(), x2.cpu()) + bias
    (0.5 * (same.cpu().float() - logit.sigmoid()).square().mean()).backward()
    torch.testing.assert_close(loss.scale.grad.cpu(), scale.grad)
    torch.testing.assert_close(loss.bias.grad.cpu(), bias.grad.reshape(1))


def test_attribute_margin_is_one_minus_jaccard():
    a = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    n = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    expected = 0.2 + 0.3 * (1 - torch.tensor([1 / 3, 1, 1, 0]))
    torch.testing.assert_close(MF.attribute_margin(a, n, 0.2, 0.3), expected)


def test_modules_call_their_functions():
    a, p, n, o = torch.randn(4, 6, 5)
    same = torch.arange(6) < 2
    margin = torch.tensor(0.7)
    pairs = [
        (mtlfast.ContrastiveLoss(margin)(a, p, same), MF.contrastive_loss(a, p, same, 0.7)),
        (mtlfast.TripletMarginLoss(0.5, 1.0)(a, p, n), MF.triplet_margin_loss(a, p, n, 0.5, 1.0)),
        (mtlfast.NormalizedTripletLoss()(a, p, n), MF.normalized_triplet_loss(a, p, n)),
        (
            mtlfast.HierarchicalTripletLoss([0.5, 0.1], reduction="sum")(a, [p, n, o]),
            MF.hierarchical_triplet_loss(a, [p, n, o], [0.5, 0.1], reduction="sum"),
        ),
    ]
    for got, expected in pairs:
        assert torch.equal(got, expected)


@pytest.mark.parametrize("width", [256, 250])
def test_a_large_batch_has_the_gradients_of_its_parts(width):
    """Those of 8 MiB and more pass the caches on their way to memory; 250 fills no cache lines."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(5000, width, generator=generator) for _ in range(3)]

    def gradients(part):
        loss = lambda a, p, n: MF.normalized_triplet_loss(a, p, n, 0.5, reduction="sum")  # noqa: E731
        return loss_and_gradients(loss, *(row[part] for row in rows))[1:]

    parts = zip(*(gradients(slice(i, i + 500)) for i in range(0, 5000, 500)), strict=True)
    for whole, pieces in zip(gradients(slice(None)), parts, strict=True):
        assert torch.equal(whole, torch.cat(pieces))


@pytest.mark.parametrize("width", [1024, 4096, 8192])
def test_equal_terms_do_not_drift(width):
    """Sums in float are short: equal terms are all rounded one way."""
    x = torch.full((2, width), 0.1)
    for y in (torch.full((2, width), 0.3), torch.full((2, width), -0.7)):
        given = x, y, torch.ones(2)
        exact = MF.contrastive_loss(*(t.double() for t in given))
        loss = MF.contrastive_loss(*given, backend="native")
        assert (loss.double() / exact - 1).abs() <= 8 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("degrees", [60, 100, 135, 150, 170, 176])
def test_gradients_of_normalised_rows_stay_across_them_at_wide_angles(degrees):
    generator = torch.Generator().manual_seed(0)
    x, across = torch.randn(2, 200, 64, generator=generator, dtype=torch.float64)
    across -= (across * x).sum(1, keepdim=True) / (x * x).sum(1, keepdim=True) * x
    across *= x.norm(dim=1, keepdim=True) / across.norm(dim=1, keepdim=True)
    angle = torch.tensor(float(degrees)).deg2rad().double()
    rows = [x.float(), (angle.cos() * x + angle.sin() * across).float()]
    same = torch.ones(200)
    _, *gradients = loss_and_gradients(
        lambda a, b: MF.contrastive_loss(
            a, b, same, normalize=True, reduction="sum", backend="native"
        ),
        *rows,
    )
    assert_no_radial_slope(rows, gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_float32(dtype):
    rows = [row.to(dtype) for row in torch.randn(3, 4, 5)]
    assert MF.normalized_triplet_loss(*rows).dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for reduction in ("none", "mean"):
            loss = MF.normalized_triplet_loss(*rows, reduction=reduction)
            assert loss.dtype == torch.float32
            exact = MF.normalized_triplet_loss(*(r.double() for r in rows), reduction=reduction)
            torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-6)
