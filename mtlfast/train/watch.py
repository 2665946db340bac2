"""What happens between steps: looks at the losses, scores, stop rules, checkpoints, signals."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from tqdm.auto import tqdm

from mtlfast.train import history, inference, state, tables
from mtlfast.train.interrupt import Interrupted, Interruption
from mtlfast.train.reading import Source
from mtlfast.train.schedule import TaskStopping
from mtlfast.train.tasks import Task

if TYPE_CHECKING:
    from mtlfast.train.trainer import Trainer

__all__ = ["Watch"]

# Steps between looks at the losses: each look waits for the device.
LOOK_EVERY = 10


class Watch:
    """Watches over a trainer's run, step by step; within it, signals wait for the next step.

    Args:
        trainer: the trainer.
        epochs: epochs of the run.
        length: steps of an epoch.
        validation: what is scored after each epoch, or nothing.
    """

    def __init__(
        self, trainer: Trainer, epochs: int, length: int, validation: Sequence[Source]
    ) -> None:
        self.trainer, self.epochs, self.length = trainer, epochs, length
        self.validation = validation
        self.interruption = Interruption() if trainer.output is not None else None
        # A file or a pipe keeps every state of the bar: a few suffice.
        self.bar = tqdm(
            total=epochs * length,
            initial=trainer.step,
            unit="step",
            mininterval=0.2 if sys.stderr.isatty() else 5,
            disable=not trainer.accelerator.is_main_process,
        )
        trainer.renewals.begin(trainer.step, trainer.joint.weights())
        self.since = time.perf_counter()

    def __enter__(self) -> Watch:
        if self.interruption is not None:
            self.interruption.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()
        if self.interruption is not None:
            self.interruption.__exit__(kind, error, trace)

    def begin(self, epoch: int) -> None:
        """Notes that an epoch begins or goes on."""
        self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)
        self.since = time.perf_counter()

    def after_step(self, number: int) -> None:
        """Ends step ``number`` of an epoch, counted from 1."""
        self.bar.update()
        self.trainer.renewals.add(self.trainer.step, self.trainer.weighting.weights)
        if number % LOOK_EVERY == 0:
            self.look()
        if number < self.length:
            every = self.trainer.checkpoint_every
            self._pause(due=every is not None and self.trainer.step % every == 0)

    def after_epoch(self, epoch: int, active: Sequence[Task]) -> None:
        """Scores an epoch, applies the stop rules, and writes down what came."""
        trainer = self.trainer
        losses, counts = self.look()
        self._clock()
        state.check_weights(trainer)
        accelerator, size = trainer.accelerator, trainer.fitted["batch_size"]
        scores = inference.scores(accelerator, trainer.joint, self.validation, size)
        going = {name for task in active for name in task.names}
        columns = zip(trainer.names, trainer.joint.weights(), losses, counts, strict=True)
        learned = {
            name: {
                "weight": weight,
                "loss": None if math.isnan(loss) else loss,
                "count": int(count),
            }
            for name, weight, loss, count in columns
        }
        rows = history.rows(epoch + 1, trainer.step, learned, scores, going)
        trainer.history += rows
        improved = trainer.best is not None and trainer.best.update(scores, epoch + 1)
        for rule in trainer.stopping:
            if isinstance(rule, TaskStopping):
                rule.update(trainer.tasks, learned, scores, epoch + 1)
            else:
                rule.stop(scores, epoch + 1)
        trainer.accelerator.log(history.scalars(rows), step=trainer.step)
        if not self.bar.disable:
            text = tables.progress(epoch + 1, self.epochs, rows, seconds=trainer.seconds)
            self.bar.write(f"{text}\n", file=sys.stderr)
        self.since = time.perf_counter()
        if improved and trainer.output is not None:
            state.save_best(trainer, trainer.output)
        self._pause(due=True)

    def look(self) -> tuple[list[float], list[float]]:
        """Returns each task's mean loss in this epoch and its labels; stops where one is bad.

        Raises:
            FloatingPointError: with the name of a task whose loss is not finite.
        """
        trainer = self.trainer
        sums, counts = trainer.accelerator.reduce(trainer.running, "sum").tolist()
        state.check_finite(trainer, sums)
        trainer.renewals.look(trainer.joint.static)
        losses = [total / n if n else math.nan for total, n in zip(sums, counts, strict=True)]
        if not self.bar.disable:
            text = tables.brief(trainer.names, losses, trainer.joint.weights())
            self.bar.set_postfix_str(text, refresh=False)
        return losses, counts

    def _pause(self, due: bool) -> None:
        """Writes a checkpoint where one is due or a signal came, which then ends the run."""
        trainer, asked = self.trainer, 0
        if self.interruption is None or trainer.output is None:
            return
        # Processes must agree, which they do as often as they look.
        if trainer.processes == 1:
            asked = self.interruption.number
        elif due or trainer.step % LOOK_EVERY == 0:
            own = torch.tensor(self.interruption.number, device=trainer.device)
            asked = int(trainer.accelerator.reduce(own, "max"))
        if due or asked:
            self.look()
            self._clock()
            path = state.save(trainer, trainer.output)
            self.since = time.perf_counter()
            if asked:
                raise Interrupted(f"saved {path}, from which the run can be resumed", asked)

    def _clock(self) -> None:
        """Adds the time that has passed to that of the run, scoring and saving left out."""
        now = time.perf_counter()
        self.trainer.seconds += now - self.since
        self.since = now
