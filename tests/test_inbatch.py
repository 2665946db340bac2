"""The in-batch losses: exact, invariant, bounded in memory, and right at every edge."""

import pytest
import torch
from backends import each_fused_inbatch_backend as each_fused_backend
from backends import each_inbatch_backend as each_backend
from batch_cases import LOSSES, Batch, batch_of, each_loss

import mtlfast.functional as MF
from mtlfast.bench.measure import peak_extra_bytes
from mtlfast.ops import inbatch, native

native_only = pytest.mark.skipif(native.PATH is None, reason="this installation has no native part")
MIB = 1 << 20
SOME = [loss for loss in LOSSES if len(loss.options) <= 2]
each_of_some = pytest.mark.parametrize("loss", SOME, ids=str)


@each_fused_backend
@each_loss
def test_half_types_keep_float32_distances(loss, backend):
    """Within autocast too: the loss is that of the widened rows, in float32 there."""
    batch = batch_of("tight").to(torch.bfloat16, backend.device)
    wide = loss(batch.to(torch.float32, backend.device), backend=backend.name)
    assert loss(batch, backend=backend.name).dtype == torch.bfloat16
    with torch.autocast(backend.device, torch.bfloat16):
        assert torch.equal(loss(batch, backend=backend.name), wide)


@native_only
def test_products_are_float32_whatever_the_settings(monkeypatch):
    seen = []

    def product(*operands, multiply=torch.mm, **options):
        seen.append(torch.backends.mkldnn.matmul.fp32_precision)
        return multiply(*operands, **options)

    monkeypatch.setattr(torch, "mm", product)
    batch = batch_of("classes").to(torch.float32)
    torch.set_float32_matmul_precision("medium")
    try:
        LOSSES[0](batch, backend="native")
        assert seen == ["ieee"]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@each_backend
@each_of_some
def test_scale_and_order_do_not_matter(loss, backend):
    batch = batch_of("classes").to(torch.float32, backend.device)
    value, gradient = batch.gradients(loss, backend=backend.name)
    if loss.options.get("normalize", True):
        radial = (batch.embeddings * gradient).sum(1)
        torch.testing.assert_close(radial, torch.zeros_like(radial), rtol=0, atol=1e-6)
        larger = batch._replace(embeddings=batch.embeddings * 8)
        scaled = larger.gradients(loss, backend=backend.name)
        torch.testing.assert_close(scaled, [value, gradient / 8])
    order = torch.randperm(len(gradient), generator=torch.Generator().manual_seed(1))
    order = order.to(backend.device)
    shuffled = Batch(batch.embeddings[order], batch.labels[order])
    torch.testing.assert_close(
        shuffled.gradients(loss, backend=backend.name), [value, gradient[order]]
    )


@each_backend
@each_loss
@pytest.mark.parametrize("name", ["one class", "all distinct", "no rows", "one row"])
def test_nothing_to_compare_gives_nothing(name, loss, backend):
    if name in ("no rows", "one row"):
        rows = int(name == "one row")
        batch = Batch(torch.ones(rows, 3), torch.zeros(rows, dtype=torch.long))
    else:
        batch = batch_of(name).to(torch.float32)
        if loss.function is MF.batch_contrastive_loss:
            return
    value, gradient = batch.to(torch.float32, backend.device).gradients(loss, backend=backend.name)
    assert value == 0 and not gradient.any() and gradient.shape == batch.embeddings.shape


@each_backend
@each_loss
def test_empty_reference_set_gives_nothing(loss, backend):
    rows = batch_of("classes").to(torch.float32, backend.device)
    empty = rows._replace(ref_embeddings=rows.embeddings[:0], ref_labels=rows.labels[:0])
    value, *gradients = empty.gradients(loss, backend=backend.name)
    assert value == 0 and not any(gradient.any() for gradient in gradients)


@each_backend
@each_loss
def test_coinciding_rows_have_finite_gradients(loss, backend):
    batch = Batch(torch.ones(12, 4), torch.arange(12) % 3).to(torch.float32, backend.device)
    value, gradient = batch.gradients(loss, backend=backend.name)
    assert value.isfinite() and torch.equal(gradient, torch.zeros_like(gradient))


@each_backend
@each_of_some
def test_nan_shows_in_the_loss(loss, backend):
    batch = batch_of("classes").to(torch.float32, backend.device)
    batch.embeddings[5, 2] = torch.nan
    assert loss(batch, backend=backend.name).isnan()


@each_backend
def test_hard_mining_takes_the_first_of_equals(backend):
    x = torch.tensor([[0.0, 0], [1, 0], [0, 1], [2, 0], [0, 2]], device=backend.device)
    x.requires_grad_()
    labels = torch.tensor([0, 0, 0, 1, 2], device=backend.device)
    loss = MF.batch_triplet_loss(
        x, labels, 2.0, mining="hard", normalize=False, reduction="sum", backend=backend.name
    )
    # Anchor 0: positives 1 and 2, negatives 3 and 4 tie; anchors 1 and 2: the other and 3 or 4.
    root = 2**0.5
    assert loss.item() == pytest.approx(1 - 2 + 2 + 2 * (root - 1 + 2), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient[3].tolist() == pytest.approx([-2, 0], abs=1e-6)
    assert gradient[4].tolist() == pytest.approx([0, -1], abs=1e-6)


@each_backend
@pytest.mark.parametrize("margin", [0.0, -0.3])
def test_semihard_without_a_margin_mines_nothing(margin, backend):
    """Nothing lies between the bounds: with few members in a class, and with many; ties or not."""
    for rows in (12, 260):
        x = (torch.arange(rows)[:, None] % torch.tensor([7, 5, 3]) - 1.0).to(backend.device)
        x.requires_grad_()
        labels = torch.arange(rows, device=backend.device) % 2
        options = {"mining": "semihard", "normalize": False, "reduction": "sum"}
        loss = MF.batch_triplet_loss(x, labels, margin, backend=backend.name, **options)
        (gradient,) = torch.autograd.grad(loss, x)
        assert loss == 0 and not gradient.any()


@each_backend
def test_golden_values(backend):
    x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]], device=backend.device)
    labels = torch.tensor([0, 0, 1], device=backend.device)
    near, far, both = 0.4**0.5, 0.8**0.5, 0.08**0.5
    all_of_them = [near - far + 0.3, near - both + 0.3]
    for mining, expected in (
        ("all", sum(all_of_them) / 2),
        ("hard", sum(all_of_them) / 2),
        ("semihard", all_of_them[0]),
    ):
        loss = MF.batch_triplet_loss(x, labels, 0.3, mining=mining, backend=backend.name)
        assert loss.item() == pytest.approx(expected, rel=1e-5), mining
    loss = MF.batch_contrastive_loss(x, labels, 0.1, 0.9, backend=backend.name)
    assert loss.item() == pytest.approx(near - 0.1 + 0.9 - (far + both) / 2, rel=1e-5)


@each_fused_backend
@each_of_some
def test_multi_hot_labels_of_one_each_are_classes(loss, backend):
    batch = batch_of("classes").to(torch.float32, backend.device)
    expected = batch.gradients(loss, backend=backend.name)
    for dtype in (torch.bool, torch.int64, torch.uint8):
        hot = torch.nn.functional.one_hot(batch.labels, 130).to(dtype)
        got = batch._replace(labels=hot).gradients(loss, backend=backend.name)
        assert all(map(torch.equal, got, expected))


@each_fused_backend
@each_of_some
def test_inputs_are_kept_and_a_second_backward_repeats(loss, backend):
    batch = batch_of("reference set").to(torch.float32, backend.device)
    kept = [t.clone() for t in batch]
    leaves = [batch.embeddings.requires_grad_(), batch.ref_embeddings.requires_grad_()]
    value = loss(batch, backend=backend.name)
    first, second = (torch.autograd.grad(value, leaves, retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second)) and all(map(torch.equal, batch, kept))
    assert torch.equal(value, loss(Batch(*(t.detach() for t in batch)), backend=backend.name))
    with torch.no_grad():
        assert not loss(batch, backend=backend.name).requires_grad
    # Only one of the two asks for a gradient.
    for i in (0, 1):
        given = [t.detach() for t in batch]
        given[2 * i].requires_grad_()
        (alone,) = torch.autograd.grad(loss(Batch(*given), backend=backend.name), given[2 * i])
        assert torch.equal(alone, first[i])


@each_fused_backend
@each_of_some
def test_layout_and_label_types_do_not_matter(loss, backend):
    batch = batch_of("classes").to(torch.float32, backend.device)
    expected = loss(batch, backend=backend.name)
    strided = batch.embeddings.t().contiguous().t()
    for dtype in (torch.uint8, torch.int16, torch.int32):
        labels = torch.stack([batch.labels.to(dtype)] * 2, 1)[:, 0]
        assert torch.equal(loss(Batch(strided, labels), backend=backend.name), expected)


def _large(rows):
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, rows // 64, (rows,), generator=generator)
    centres = torch.randn(rows // 64, 128, generator=generator)
    return Batch(0.5 * centres[labels] + torch.randn(rows, 128, generator=generator), labels)


def _by_one_thread(function):
    def call(*operands, **options):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        result = function(*operands, **options)
        torch.set_num_threads(threads)
        return result

    return call


@native_only
@each_of_some
def test_results_repeat_with_as_many_threads_and_else_as_far_as_products_do(loss, monkeypatch):
    """torch.mm itself changes in the last bits between numbers of threads, at some sizes."""
    batch = _large(512)
    before, counts = torch.get_num_threads(), (1, 2, 4)

    def results():
        found = []
        for threads in counts:
            torch.set_num_threads(threads)
            found.append(batch.gradients(loss, backend="native"))
        return found

    try:
        first, second = results(), results()
        monkeypatch.setattr(torch, "mm", _by_one_thread(torch.mm))
        monkeypatch.setattr(torch.Tensor, "addmm_", _by_one_thread(torch.Tensor.addmm_))
        same_products = results()
    finally:
        torch.set_num_threads(before)
    for one, other, alone in zip(first, second, same_products, strict=True):
        assert all(map(torch.equal, one, other))
        assert all(map(torch.equal, alone, first[0]))
        torch.testing.assert_close(one, first[0], rtol=1e-5, atol=1e-7)


@native_only
@each_of_some
def test_tiles_do_not_change_the_result(loss, monkeypatch):
    batch = _large(512)
    expected = batch.gradients(loss, backend="native")
    monkeypatch.setattr(inbatch, "TILE", 100 * 512)
    got = batch.gradients(loss, backend="native")
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


@native_only
@each_of_some
def test_memory_is_bounded(loss):
    batch = _large(1536)
    batch.embeddings.requires_grad_()

    def work():
        torch.autograd.grad(loss(batch, backend="native"), batch.embeddings)

    work()
    wide = not loss.options.get("normalize", True)  # float64 then
    rows = batch.embeddings.nbytes  # units, what they lost in rounding, and two gradients
    bound = (9 if wide else 5) * inbatch.TILE + (8 if wide else 4) * rows + MIB / 2
    assert peak_extra_bytes(work, "cpu") <= bound <= 32 * MIB
