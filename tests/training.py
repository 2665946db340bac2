"""The small model, tasks and data that the tests of the trainer share."""

from __future__ import annotations

import torch
from torch import nn

from mtlfast.train import MultiTaskModel, Samples, Task, Trainer
from mtlfast.train.adapters import probe
from mtlfast.weighting import ValidationLossTrend

BCE = "binary_cross_entropy_with_logits"


def network(dropout=0.0, norm=True, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Linear(5, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.ReLU()]
    backbone = nn.Sequential(*layers, nn.Dropout(dropout))
    return MultiTaskModel(backbone, {"kind": nn.Linear(8, 3), "flags": nn.Linear(8, 2)})


def tasks(**options):
    return [
        Task("kind", output="kind", target="kind", loss="cross_entropy", metrics=["accuracy"]),
        Task(["a", "b"], output="flags", target="flags", loss=BCE, metrics=["auroc"], **options),
    ]


def data(rows=37, seed=0, missing=0.3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator)
    kind = (x[:, 0] > 0).long() + (x[:, 1] > 0)
    flags = torch.stack((x[:, 2] > 0, x[:, 3] > x[:, 4]), 1).to(torch.int8)
    hide = torch.rand(rows, 3, generator=generator) < missing
    return Samples(
        x, {"kind": kind.masked_fill(hide[:, 0], -1), "flags": flags.masked_fill(hide[:, 1:], -1)}
    )


def trainer(model=None, learned=None, optimizer=torch.optim.SGD, lr=0.1, **options):
    model = network() if model is None else model
    return Trainer(model, learned or tasks(), optimizer(model.parameters(), lr=lr), **options)


def full_run(output, lr=0.01, **options):
    """A trainer with all that has a memory."""
    model = network(dropout=0.4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    return Trainer(
        model,
        tasks(),
        optimizer,
        weighting=ValidationLossTrend(3, interval=4, momentum=0.5),
        scheduler=torch.optim.lr_scheduler.MultiStepLR(optimizer, [7, 7, 13]),
        accumulate=2,
        clip=1.0,
        output=output,
        seed=5,
        **options,
    )


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def counts(task, targets):
    """Returns the number of labels of each task: (T,)."""
    return task.counts(task.labelled(targets[task.target]))


def sums(task, outputs, targets):
    """Returns the loss of each task summed over its labels: (T,), as training computes it."""
    output, target = outputs[task.output], targets[task.target]
    if not task.adapter.known:
        task.adapter = probe(task.adapter, output, target)
    return task.adapter(output, target, task.labelled(target))
