"""The trainer's step against the same loop written by hand, and the update of the weights.

Both loops read the same in-memory samples in random order, 256 at a time, and train the same
network on 40 binary tasks and one of ten classes, of which a fifth of the labels are missing: about
10 ms a step on 2 threads. Both take turns of four epochs, and the ratio is the median of theirs.

    python benches/bench_training.py
"""

import io
from contextlib import redirect_stderr
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

import mtlfast.functional as MF
from mtlfast.bench.measure import clock, plan, rounds_of
from mtlfast.train import MultiTaskModel, Samples, Task, Trainer
from mtlfast.weighting import ValidationLossTrend

ROWS, WIDTH, HIDDEN, BATCH, TASKS = 256 * 40, 256, 768, 256, 40
ROUNDS, EPOCHS, THREADS = 5, 4, 2
GOAL_STEP, GOAL_UPDATE = 1.05, 50e-6


def samples():
    generator = torch.Generator().manual_seed(0)
    flags = torch.randint(0, 2, (ROWS, TASKS), dtype=torch.int8, generator=generator)
    kind = torch.randint(0, 10, (ROWS,), generator=generator)
    hidden = torch.rand(ROWS, TASKS + 1, generator=generator) < 0.2
    targets = {"flags": flags.masked_fill(hidden[:, 1:], -1), "kind": kind}
    targets["kind"] = kind.masked_fill(hidden[:, 0], -1)
    return Samples(torch.randn(ROWS, WIDTH, generator=generator), targets)


def network():
    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()]
    heads = {"flags": nn.Linear(HIDDEN, TASKS), "kind": nn.Linear(HIDDEN, 10)}
    return MultiTaskModel(nn.Sequential(*layers), heads)


def by_hand(model, optimizer, data):
    """Trains for one epoch, as one would write it."""
    for indices in torch.randperm(ROWS).split(BATCH):
        x, y = data[indices]
        optimizer.zero_grad()
        outputs = model(x)
        _, tasks = MF.binary_cross_entropy_with_logits(
            outputs["flags"], y["flags"], return_tasks=True
        )
        kind = F.cross_entropy(outputs["kind"], y["kind"], ignore_index=-1)
        (tasks.loss.sum() + kind).backward()
        optimizer.step()


def training_step():
    """Returns what a step takes, in words."""
    data, model = samples(), network()
    optimizer = torch.optim.AdamW(model.parameters())
    tasks = [
        Task(
            [f"t{i}" for i in range(TASKS)],
            output="flags",
            target="flags",
            loss="binary_cross_entropy_with_logits",
        ),
        Task("kind", output="kind", target="kind", loss="cross_entropy"),
    ]
    own = network()
    trainer = Trainer(own, tasks, torch.optim.AdamW(own.parameters()))
    hand, ours = [], []
    for _ in range(ROUNDS + 1):
        start = clock()
        for _ in range(EPOCHS):
            by_hand(model, optimizer, data)
        middle = clock()
        with redirect_stderr(io.StringIO()):
            trainer.fit(data, EPOCHS, BATCH)
        hand.append((middle - start) * BATCH / ROWS / EPOCHS)
        ours.append((clock() - middle) * BATCH / ROWS / EPOCHS)

    hand, ours = hand[1:], ours[1:]  # the first ones warm up
    ratio = median(b / a for a, b in zip(hand, ours, strict=True))
    return (
        f"trainer's step {1000 * median(ours):.2f} ms, by hand {1000 * median(hand):.2f} ms: "
        f"{ratio:.3f} times as long; goal: at most {GOAL_STEP}"
    )


def weight_update():
    """Returns what an update of the weights takes, in words."""
    trend = ValidationLossTrend(TASKS)
    losses, counts = torch.rand(TASKS), torch.randint(1, 99, (TASKS,))

    def observe():
        trend.observe(losses, counts)

    seconds = median(rounds_of(observe, *plan(observe, 1, 1.0)))
    return (
        f"ValidationLossTrend.observe of {TASKS} tasks {1e6 * seconds:.1f} us; goal: at most "
        f"{1e6 * GOAL_UPDATE:.0f} us"
    )


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    print(training_step())
    print(weight_update())
