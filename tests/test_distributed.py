"""Gathering over processes: two real ones run every property marked with `in_two_processes`."""

from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from processes import told_by_two
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mtlfast import distributed
from mtlfast.distributed import gather_embeddings

PROPERTIES = {}
DTYPES = [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool]
HALVES = [(4, 4), (3, 5), (0, 8), (8, 0)]


def in_two_processes(function):
    """Registers a property; the worker below calls it in each process of one group."""
    PROPERTIES[function.__name__] = function
    return function


def pair_loss(anchors, rows, same, scale):
    """The mean over pairs of a contrastive loss, in plain PyTorch."""
    squares = (anchors[:, None] - rows).square().sum(2)
    distances = torch.where(squares > 0, squares, 1).sqrt()
    hinges = (scale - distances).clamp(min=0).square()
    return torch.where(same, squares, torch.where(squares > 0, hinges, 0)).mean()


def in_batch_loss(rows, labels, scale=3.0):
    return pair_loss(rows, rows, labels[:, None] == labels, scale)


def whole_batch():
    """Returns eight rows and labels, alike in every process."""
    random = torch.Generator().manual_seed(0)
    return (
        torch.randn(8, 5, dtype=torch.float64, generator=random),
        torch.randint(3, (8,), generator=random),
    )


def own(tensor, sizes):
    return tensor.split(list(sizes))[dist.get_rank()]


@in_two_processes
def rows_come_in_rank_order_whatever_their_dtype_and_number():
    for sizes in HALVES:
        for dtype in DTYPES:
            for shape in ((8,), (8, 3), (8, 2, 3), (8, 0)):
                whole = torch.arange(8 * 6).reshape(8, 6) % 5
                whole = whole.flatten()[: torch.Size(shape).numel()].reshape(shape).to(dtype)
                gathered = gather_embeddings(own(whole, sizes))
                assert gathered.dtype == dtype and torch.equal(gathered, whole)
                if sizes == (4, 4):
                    assert torch.equal(gather_embeddings(own(whole, sizes), even=True), whole)
    assert gather_embeddings(torch.ones(0, 3)).shape == (0, 3)
    columns = torch.arange(12.0).reshape(3, 4).t()
    assert torch.equal(gather_embeddings(columns), torch.cat((columns, columns)))


@in_two_processes
def gradient_is_that_of_one_process_times_the_number_of_processes():
    rows, labels = whole_batch()
    alone = rows.clone().requires_grad_()
    in_batch_loss(alone, labels).backward()
    for sizes in HALVES:
        x = own(rows, sizes).clone().requires_grad_()
        in_batch_loss(gather_embeddings(x), gather_embeddings(own(labels, sizes))).backward()
        torch.testing.assert_close(x.grad, 2 * own(alone.grad, sizes), rtol=0, atol=1e-14)


class Embedder(nn.Module):
    """A layer before the gathering, and a learned scale after it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(5, 4, dtype=torch.float64)
        self.scale = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))

    def forward(self, rows, labels, loss):
        return loss(self.layer(rows).tanh(), labels, self.scale)


def trained(model, rows, labels, loss):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        model(rows, labels, loss).backward()
        optimizer.step()
    return list(model.parameters())


def gathered_loss(x, labels, scale):
    return in_batch_loss(gather_embeddings(x), gather_embeddings(labels), scale)


@in_two_processes
def training_steps_equal_those_of_one_process():
    rows, labels = whole_batch()
    model = Embedder()
    expected = trained(copy.deepcopy(model), rows, labels, in_batch_loss)
    for sizes in HALVES:
        parallel = DistributedDataParallel(copy.deepcopy(model))
        got = trained(parallel, own(rows, sizes), own(labels, sizes), gathered_loss)
        for before, a, b in zip(model.parameters(), got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
            assert not torch.allclose(before, b, rtol=0, atol=1e-3)


@in_two_processes
def own_rows_against_all_rows_train_like_one_process_too():
    rows, labels = whole_batch()
    expected = trained(Embedder(), rows, labels, in_batch_loss)

    def anchored(x, own_labels, scale):
        same = own_labels[:, None] == gather_embeddings(own_labels)
        return pair_loss(x, gather_embeddings(x, even=True), same, scale)

    parallel = DistributedDataParallel(Embedder())
    got = trained(parallel, own(rows, (4, 4)), own(labels, (4, 4)), anchored)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@in_two_processes
def a_second_backward_gives_the_same_gradient_and_mutates_nothing():
    for sizes in HALVES:
        x = own(whole_batch()[0], sizes).clone().requires_grad_()
        gathered = gather_embeddings(x)
        upstream = torch.arange(40.0, dtype=torch.float64).reshape(8, 5) + dist.get_rank()
        kept = upstream.clone()
        first, second = (
            torch.autograd.grad(gathered, x, upstream, retain_graph=True)[0] for _ in range(2)
        )
        assert torch.equal(first, second) and torch.equal(upstream, kept)
        assert torch.equal(first, own(2 * kept + 1 - 2 * dist.get_rank(), sizes))


@in_two_processes
def double_backward_is_that_of_one_process_times_the_number_of_processes():
    for sizes in HALVES:
        x = own(whole_batch()[0], sizes).clone().requires_grad_()
        (grad,) = torch.autograd.grad(gather_embeddings(x).pow(3).sum(), x, create_graph=True)
        torch.testing.assert_close(grad, 6 * x**2)
        (second,) = torch.autograd.grad(grad.sum(), x)
        torch.testing.assert_close(second, 2 * 6 * x)


@in_two_processes
def half_gradients_are_added_in_float32_and_rounded_once():
    scatter = distributed._reduce_scatter
    for dtype in (torch.bfloat16, torch.float16):
        for sizes in HALVES:
            x = own(whole_batch()[0], sizes).to(dtype).requires_grad_()
            parts = [
                torch.randn(8, 5, generator=torch.Generator().manual_seed(r)).to(dtype)
                for r in range(2)
            ]
            with mock.patch.object(distributed, "_reduce_scatter", wraps=scatter) as added:
                gather_embeddings(x).backward(parts[dist.get_rank()])
            expected = (parts[0].float() + parts[1].float()).to(dtype)
            assert x.grad.dtype == dtype and torch.equal(x.grad, own(expected, sizes))
            assert {tensor.dtype for tensor in added.call_args.args} == {torch.float32}


@in_two_processes
def even_sizes_are_not_exchanged():
    with mock.patch.object(distributed, "_exchange_sizes", None):
        assert gather_embeddings(torch.ones(2, 3), even=True).shape == (4, 3)


@in_two_processes
def labels_take_no_part_in_the_graph():
    for labels in (torch.arange(3), torch.ones(3, dtype=torch.bool), torch.rand(3)):
        assert not gather_embeddings(labels).requires_grad
    with torch.no_grad():
        assert not gather_embeddings(torch.rand(3, requires_grad=True)).requires_grad


@in_two_processes
def a_group_of_one_returns_its_rows_and_others_are_refused():
    group = dist.new_group([0])
    x = torch.ones(2, 3)
    if dist.get_rank() == 0:
        assert gather_embeddings(x, group=group) is x
    else:
        with pytest.raises(ValueError, match="group must contain this process; got one without"):
            gather_embeddings(x, group=group)


@in_two_processes
def another_group_gathers_as_well():
    x = torch.full((1 + dist.get_rank(), 2), float(dist.get_rank()), requires_grad=True)
    gathered = gather_embeddings(x, group=dist.new_group([0, 1]))
    gathered.sum().backward()
    assert gathered[:, 0].tolist() == [0, 1, 1] and x.grad.unique().tolist() == [2]


@in_two_processes
def rows_that_do_not_fit_together_are_refused_in_every_process():
    for other in (torch.ones(2, 4), torch.ones(2, 3, dtype=torch.float64)):
        x = other if dist.get_rank() else torch.ones(2, 3)
        with pytest.raises(ValueError, match=r"x must have rows of one shape.*got rows of \[12, "):
            gather_embeddings(x)


def work(tell):
    """Runs every property in one process of the group, and tells the names of those that hold."""
    for name, function in PROPERTIES.items():
        function()
        tell(name)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What both processes told."""
    return told_by_two(work, tmp_path_factory.mktemp("group"))


@pytest.mark.parametrize("name", PROPERTIES)
def test_in_two_processes(name, outputs):
    for told in outputs:
        assert name in told, "\n".join(told)


def test_rows_are_returned_as_they_are_without_a_group():
    for x in (torch.ones(2, 3, requires_grad=True), torch.arange(3), torch.ones(0, 2)):
        assert gather_embeddings(x) is x and gather_embeddings(x, even=True) is x


BAD = [
    (lambda: gather_embeddings([1.0]), TypeError, "x must be a Tensor; got list."),
    (lambda: gather_embeddings(torch.ones(())), ValueError, r"x must have rows, shape \(n, ...\)"),
    (lambda: gather_embeddings(torch.eye(2).to_sparse()), ValueError, "x must be dense"),
]


@pytest.mark.parametrize("call, kind, message", BAD, ids=[message for *_, message in BAD])
def test_bad_arguments_are_refused_in_one_line(call, kind, message):
    with pytest.raises(kind, match=message) as error:
        call()
    assert "\n" not in str(error.value)
