"""What happens between steps: looks at the losses, scores, stop rules, checkpoints, signals."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NoReturn

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from mtlfast.train import checkpoint, inference
from mtlfast.train.interrupt import Interrupted, noted
from mtlfast.train.joint import Joint
from mtlfast.train.report import history, tables
from mtlfast.train.resuming import Checkpoints
from mtlfast.train.run import Run
from mtlfast.train.sources import Source
from mtlfast.train.tasks import Task

__all__ = ["Watch"]

# Steps between looks at the losses: each look waits for the device.
LOOK_EVERY = 10


@dataclass
class Watch:
    """Watches over a run, step by step.

    Args:
        run: its record.
        joint: what is trained.
        accelerator: whose processes train it.
        checkpoints: of the run, or None.
        validation: what is scored after each epoch, or nothing.
        epochs: epochs of the run.
        length: steps of an epoch.
    """

    run: Run
    joint: Joint
    accelerator: Accelerator
    checkpoints: Checkpoints | None
    validation: Sequence[Source]
    epochs: int
    length: int

    def __post_init__(self) -> None:
        self.signals: list[int] = []
        # A file or a pipe keeps every state of the bar: a few suffice.
        self.bar = tqdm(
            total=self.epochs * self.length,
            initial=self.run.step,
            unit="step",
            mininterval=0.2 if sys.stderr.isatty() else 5,
            disable=not self.accelerator.is_main_process,
        )
        self.run.renewals.begin(self.run.step, self.joint.weights())
        self.since = time.perf_counter()

    @contextmanager
    def going(self) -> Iterator[None]:
        """Within it a bar tells how far the run is, and signals wait for the next step."""
        saved = self.checkpoints is not None
        waiting: AbstractContextManager[list[int]] = noted() if saved else nullcontext([])
        with waiting as self.signals, self.bar:
            yield

    def begin(self, epoch: int) -> None:
        """Notes that an epoch begins or goes on."""
        self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)
        self.since = time.perf_counter()

    def after_step(self, number: int) -> None:
        """Ends step ``number`` of an epoch, counted from 1."""
        self.bar.update()
        self.run.renewals.add(self.run.step, self.joint.weighting.weights)
        if number % LOOK_EVERY == 0:
            self.look()
        if number < self.length:
            every = None if self.checkpoints is None else self.checkpoints.every
            self._pause(due=every is not None and self.run.step % every == 0)

    def after_epoch(self, epoch: int, active: Sequence[Task]) -> None:
        """Scores an epoch, applies the stop rules, and writes down what came."""
        run, accelerator = self.run, self.accelerator
        losses, counts = self._check()
        size = run.settings["batch_size"]
        scores = inference.scores(accelerator, self.joint, self.validation, size)
        going = {name for task in active for name in task.names}
        columns = zip(run.names, self.joint.weights(), losses, counts, strict=True)
        learned = {
            name: {"weight": weight, "loss": loss, "count": count}
            for name, weight, loss, count in columns
        }
        rows = history.rows(epoch + 1, run.step, learned, scores, going)
        run.history += rows
        for rule in run.rules:
            rule.update(tasks=run.tasks, learned=learned, scores=scores, epoch=epoch + 1)
        accelerator.log(history.scalars(rows), step=run.step)
        if not self.bar.disable:
            text = tables.progress(epoch + 1, self.epochs, rows, seconds=run.seconds)
            self.bar.write(f"{text}\n", file=sys.stderr)
        self.since = time.perf_counter()
        if self.checkpoints is not None and run.best is not None and run.best.epoch == epoch + 1:
            self.checkpoints.save_best()
        self._pause(due=True)

    def look(self) -> tuple[list[float | None], list[int]]:
        """Returns each task's mean loss in this epoch and its labels; stops where one is bad.

        Without a label there is no loss: it is None.

        Raises:
            FloatingPointError: with the name of a task whose loss is not finite.
        """
        run, weights = self.run, self.joint.weights
        sums, counts = self.accelerator.reduce(run.running, "sum").tolist()
        for name, total in zip(run.names, sums, strict=True):
            if not math.isfinite(total):
                self._fail(f"the loss of task {name!r} became {total} by step {run.step}")
        run.renewals.look(self.joint.static)
        losses = [total / n if n else None for total, n in zip(sums, counts, strict=True)]
        if not self.bar.disable:
            self.bar.set_postfix_str(tables.brief(run.names, losses, weights()), refresh=False)
        return losses, list(map(int, counts))

    def _check(self) -> tuple[list[float | None], list[int]]:
        """Does as ``look``, and stops where what has been learned is not finite."""
        found = self.look()
        self._clock()
        if (name := self.joint.unsound()) is not None:
            self._fail(f"{name} is no longer finite at step {self.run.step}")
        return found

    def _fail(self, what: str) -> NoReturn:
        """Raises FloatingPointError, and says which checkpoint is from before the trouble."""
        path = self.checkpoints and checkpoint.newest(self.checkpoints.folder)
        from_before = f"{path} is" if path else "there is no checkpoint"
        raise FloatingPointError(f"{what}; {from_before} from before it.")

    def _pause(self, due: bool) -> None:
        """Writes a checkpoint where one is due or a signal came, which then ends the run."""
        run, accelerator, asked = self.run, self.accelerator, max(self.signals, default=0)
        if self.checkpoints is None:
            return
        # Processes must agree, which they do as often as they look.
        if accelerator.num_processes > 1:
            if not due and run.step % LOOK_EVERY:
                return
            own = torch.tensor(asked, device=accelerator.device)
            asked = int(accelerator.reduce(own, "max"))
        if due or asked:
            self._check()
            path = self.checkpoints.save()
            self.since = time.perf_counter()
            if asked:
                raise Interrupted(f"saved {path}, from which the run can be resumed", asked)

    def _clock(self) -> None:
        """Adds the time that has passed to that of the run, scoring and saving left out."""
        now = time.perf_counter()
        self.run.seconds += now - self.since
        self.since = now
