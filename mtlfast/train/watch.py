"""What happens between steps: looks at the losses, scores, stop rules, checkpoints, signals."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from mtlfast.train import checkpoint, inference
from mtlfast.train.checkpoints import Checkpoints
from mtlfast.train.interrupt import Interrupted, Interruption
from mtlfast.train.joint import Joint
from mtlfast.train.report import history, tables
from mtlfast.train.run import Run
from mtlfast.train.sources import Source
from mtlfast.train.tasks import Task

__all__ = ["Watch"]

# Steps between looks at the losses: each look waits for the device.
LOOK_EVERY = 10


class Watch(contextlib.ExitStack):
    """Watches over a run, step by step; within it, signals wait for the next step.

    Args:
        run: its record.
        joint: what is trained.
        accelerator: whose processes train it.
        checkpoints: of the run, or None.
        validation: what is scored after each epoch, or nothing.
        epochs: epochs of the run.
        length: steps of an epoch.
    """

    def __init__(
        self,
        run: Run,
        joint: Joint,
        accelerator: Accelerator,
        checkpoints: Checkpoints | None,
        validation: Sequence[Source],
        *,
        epochs: int,
        length: int,
    ) -> None:
        super().__init__()
        self.run, self.joint, self.accelerator = run, joint, accelerator
        self.checkpoints, self.validation = checkpoints, validation
        self.epochs, self.length = epochs, length
        self.interruption = Interruption()
        # A file or a pipe keeps every state of the bar: a few suffice.
        self.bar = tqdm(
            total=epochs * length,
            initial=run.step,
            unit="step",
            mininterval=0.2 if sys.stderr.isatty() else 5,
            disable=not accelerator.is_main_process,
        )
        run.renewals.begin(run.step, joint.weights())
        self.since = time.perf_counter()

    def __enter__(self) -> Watch:
        if self.checkpoints is not None:
            self.enter_context(self.interruption)
        self.callback(self.bar.close)
        return self

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
        losses, counts = self.look()
        self._clock()
        self._check_tensors()
        size = run.settings["batch_size"]
        scores = inference.scores(accelerator, self.joint, self.validation, size)
        going = {name for task in active for name in task.names}
        columns = zip(run.names, self.joint.weights(), losses, counts, strict=True)
        learned = {
            name: {
                "weight": weight,
                "loss": None if math.isnan(loss) else loss,
                "count": int(count),
            }
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

    def look(self) -> tuple[list[float], list[float]]:
        """Returns each task's mean loss in this epoch and its labels; stops where one is bad.

        Raises:
            FloatingPointError: with the name of a task whose loss is not finite.
        """
        run, weights = self.run, self.joint.weights
        sums, counts = self.accelerator.reduce(run.running, "sum").tolist()
        for name, total in zip(run.names, sums, strict=True):
            if not math.isfinite(total):
                self._fail(f"the loss of task {name!r} became {total} by step {run.step}")
        run.renewals.look(self.joint.static)
        losses = [total / n if n else math.nan for total, n in zip(sums, counts, strict=True)]
        if not self.bar.disable:
            self.bar.set_postfix_str(tables.brief(run.names, losses, weights()), refresh=False)
        return losses, counts

    def _check_tensors(self) -> None:
        if (name := self.joint.unsound()) is not None:
            self._fail(f"{name} is no longer finite at step {self.run.step}")

    def _fail(self, what: str) -> NoReturn:
        """Raises FloatingPointError, and says which checkpoint is from before the trouble."""
        path = self.checkpoints and checkpoint.newest(self.checkpoints.folder)
        from_before = f"{path} is" if path else "there is no checkpoint"
        raise FloatingPointError(f"{what}; {from_before} from before it.")

    def _pause(self, due: bool) -> None:
        """Writes a checkpoint where one is due or a signal came, which then ends the run."""
        run, accelerator, asked = self.run, self.accelerator, 0
        if self.checkpoints is None:
            return
        # Processes must agree, which they do as often as they look.
        if accelerator.num_processes == 1:
            asked = self.interruption.number
        elif due or run.step % LOOK_EVERY == 0:
            own = torch.tensor(self.interruption.number, device=accelerator.device)
            asked = int(accelerator.reduce(own, "max"))
        if due or asked:
            self.look()
            self._clock()
            self._check_tensors()
            path = self.checkpoints.save()
            self.since = time.perf_counter()
            if asked:
                raise Interrupted(f"saved {path}, from which the run can be resumed", asked)

    def _clock(self) -> None:
        """Adds the time that has passed to that of the run, scoring and saving left out."""
        now = time.perf_counter()
        self.run.seconds += now - self.since
        self.since = now
