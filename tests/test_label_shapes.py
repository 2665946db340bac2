"""An output and its labels never broadcast against each other, whatever the form of the loss."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from messages import message_of
from torch import nn
from training import counts, sums

import mtlfast
import mtlfast.functional as MF
from mtlfast.train import MultiTaskModel, Samples, Task, Trainer


class Squared(nn.Module):
    def forward(self, output, target):
        return (output - target).square().mean()


LOSSES = {
    "name": "mse_loss",
    "torch's function": F.mse_loss,
    "ours": MF.mse_loss,
    "partial": functools.partial(F.huber_loss, delta=2.0),
    "torch's module": nn.MSELoss(),
    "our module": mtlfast.MSELoss(),
    "scalar function": lambda output, target: F.mse_loss(output, target),
    "scalar partial": functools.partial(lambda output, target, p: (output - target).norm(p), p=2),
    "scalar module": Squared(),
    "values": lambda output, target: (output - target).square(),
    "task losses": lambda output, target: MF.mse_loss(output, target, return_tasks=True),
}
N = 7


def task_of(loss):
    return Task("t", output="y", target="t", loss=loss)


@pytest.mark.parametrize("case", LOSSES)
@pytest.mark.parametrize("shape, labels", [((N,), (N, 1)), ((N, 1), (N,)), ((N, 1), (N, 1))])
def test_a_column_beside_a_row_is_the_same_loss(case, shape, labels):
    torch.manual_seed(0)
    output, target = torch.randn(N), torch.randn(N)
    target[2] = torch.nan
    wanted = sums(task_of(LOSSES[case]), {"y": output}, {"t": target})
    task = task_of(LOSSES[case])
    task.check_output(output.reshape(shape), target.reshape(labels))
    found = sums(task, {"y": output.reshape(shape)}, {"t": target.reshape(labels)})
    torch.testing.assert_close(found, wanted)
    assert counts(task, {"t": target.reshape(labels)}).tolist() == [N - 1]


@pytest.mark.parametrize("returns", ["values", "scalar"])
@pytest.mark.parametrize("shape, labels", [((N, 1), (N,)), ((N,), (N, 1))])
def test_a_callable_sees_one_dimension_on_both_sides(returns, shape, labels):
    seen = []

    def loss(output, target):
        seen.append((output.dim(), target.dim()))
        values = (output - target).abs()
        return values if returns == "values" else values.mean()

    task = task_of(loss)
    task.check_output(torch.randn(shape), torch.randn(labels))
    sums(task, {"y": torch.randn(shape)}, {"t": torch.randn(labels)})
    assert set(seen) == {(1, 1)}


def pixels(output, target):
    return F.mse_loss(output, target)


@pytest.mark.parametrize("shape", [(N, 1, 3, 2), (N, 3, 2), (N, 6)])
@pytest.mark.parametrize("labels", [(N, 1, 3, 2), (N, 3, 2), (N, 6)])
def test_as_many_labels_as_elements_come_in_the_shape_of_the_output(shape, labels):
    output, target = torch.randn(N * 6), torch.randn(N * 6)
    task = task_of(pixels)
    task.check_output(output.reshape(shape), target.reshape(labels))
    found = sums(task, {"y": output.reshape(shape)}, {"t": target.reshape(labels)})
    torch.testing.assert_close(found, N * F.mse_loss(output, target).reshape(1))


BROADCAST = [
    ((N, 4), (N, 1)),
    ((N, 1), (N, 4)),
    ((N, 4, 3), (N, 1, 3)),
    ((N, 3, 4), (N, 4, 3)),
    ((N, 4), (N,)),
    ((2, 2), (2,)),
    ((2,), (2, 2)),
    ((1, 3), (1,)),
    ((3, 3, 2), (3, 2)),
]


@pytest.mark.parametrize("case", ["scalar function", "scalar module", "values", "task losses"])
@pytest.mark.parametrize("shape, labels", BROADCAST)
def test_other_shapes_are_refused_in_one_line(case, shape, labels):
    task = task_of(LOSSES[case])
    call = functools.partial(task.check_output, torch.randn(shape), torch.randn(labels))
    message_of(call, ValueError, r"^Task\(t\), on an output .* and labels")


@pytest.mark.parametrize("classes", [2, 3, N])
@pytest.mark.parametrize(
    "loss",
    [
        "cross_entropy",
        F.cross_entropy,
        nn.CrossEntropyLoss(),
        lambda output, target: F.cross_entropy(output, target),
        lambda output, target: F.cross_entropy(output, target, reduction="none"),
    ],
)
def test_losses_of_classes_keep_their_indices(loss, classes):
    torch.manual_seed(0)
    output, target = torch.randn(N, classes), torch.arange(N) % classes
    task = task_of(loss)
    task.check_output(output[:2], target[:2])
    wanted = F.cross_entropy(output, target, reduction="sum").reshape(1)
    torch.testing.assert_close(sums(task, {"y": output}, {"t": target}), wanted)


@pytest.mark.parametrize("case", ["scalar function", "scalar module"])
def test_a_line_is_learned_where_labels_are_a_row(case):
    torch.manual_seed(0)
    x = torch.randn(60, 2)
    y = x @ torch.tensor([1.0, -2.0])
    model = MultiTaskModel(nn.Identity(), {"y": nn.Linear(2, 1)})
    task = Task("t", output="y", target="t", loss=LOSSES[case], metrics=["r2_score"])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trainer = Trainer(model, task, optimizer)
    trainer.fit(Samples(x, {"t": y}), 30, 20)
    scores = trainer.evaluate(Samples(x, {"t": y}))
    assert scores["t"]["metrics"]["r2_score"] == pytest.approx(1.0, abs=1e-4)
