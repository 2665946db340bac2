"""The trainer: a multi-task step that fits one screen, on Hugging Face Accelerate."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import concatenate, convert_to_fp32, send_to_device, set_seed
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm.auto import tqdm

from mtlfast.train import checkpoint, report
from mtlfast.train.data import Batch, Data, check_data, endless, load, once, plan, samples
from mtlfast.train.model import Joint, MultiTaskModel, check_batch_norm, evaluating
from mtlfast.train.schedule import Stage, active_tasks, check_finite, check_stages
from mtlfast.train.tasks import Scores, Task, check_tasks, task_names
from mtlfast.weighting import Fixed, Weighting

__all__ = ["Trainer"]

Pair = tuple[Tensor, Tensor]
# Added to the seed, so that weight data is read in another order than training data.
WEIGHT_STREAM = 2**32
PARTS = ("model", "weighting", "optimizer", "scheduler", "scaler")
POSITION = ("step", "seconds", "history")


class Trainer:
    """Trains a multi-task model on data in which labels may be missing.

    One optimizer step takes ``batch_size`` samples, cut into ``accumulate`` micro-batches. Each is
    divided by the labels of the whole step, so that together they give the step's exact gradient
    (BatchNorm, which sees one micro-batch at a time, aside).

    Args:
        model: a MultiTaskModel.
        tasks: what it learns, a Task or several.
        optimizer: a torch optimizer over the model's parameters.
        weighting: turns the T losses into one, as ``mtlfast.weighting.ValidationLossTrend`` does;
            by default every task counts 1. A Task's own ``weight`` is multiplied in.
        scheduler: a torch learning-rate scheduler of that optimizer, stepped as often as it is.
        stages: which tasks are trained when; by default all of them, always.
        precision: ``"no"``, ``"bf16"`` or, on a GPU, ``"fp16"``: Accelerate's mixed precision.
        accumulate: micro-batches per optimizer step.
        clip: largest norm of the gradient, or None.
        output: directory for checkpoints, history and pictures; None writes nothing.
        seed: seeds the order of the data and, in ``fit``, the global random generators.

    Raises:
        ValueError: for arguments that cannot work together, before any work.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Task | Sequence[Task],
        optimizer: Optimizer,
        *,
        weighting: Weighting | None = None,
        scheduler: LRScheduler | None = None,
        stages: Sequence[Stage] | None = None,
        precision: str = "no",
        accumulate: int = 1,
        clip: float | None = None,
        output: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        self.tasks = [tasks] if isinstance(tasks, Task) else list(tasks)
        self.names = task_names(self.tasks)
        check_tasks(self.tasks, list(model.heads))
        self.weighting = Fixed([1.0] * len(self.names)) if weighting is None else weighting
        length, got = len(self.names), len(self.weighting.weights)
        if length != got:
            raise ValueError(f"weighting must have {length} weights, one per task; got {got}.")
        if precision not in ("no", "bf16", "fp16"):
            raise ValueError(f"precision must be 'no', 'bf16' or 'fp16'; got {precision!r}.")
        if precision == "fp16" and not torch.cuda.is_available():
            raise ValueError("precision 'fp16' needs a GPU, and there is none; use 'bf16' or 'no'.")
        if accumulate < 1 or (accumulate > 1 and not self.weighting.linear):
            want = "at least 1" if self.weighting.linear else "1 with a non-linear weighting"
            raise ValueError(f"accumulate must be {want}; got {accumulate}.")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be positive or None; got {clip}.")
        if seed < 0:
            raise ValueError(f"seed must not be negative; got {seed}.")
        plateau = isinstance(scheduler, ReduceLROnPlateau)
        if plateau or getattr(scheduler, "optimizer", optimizer) is not optimizer:
            raise ValueError(f"scheduler must be of this optimizer, no plateau; got {scheduler}.")
        self.accelerator = Accelerator(mixed_precision=precision)
        if self.accelerator.num_processes > 1:
            raise ValueError(f"Trainer runs in one process; got {self.accelerator.num_processes}.")
        self.model, self.stages, self.scheduler = model, list(stages or ()), scheduler
        self.accumulate, self.clip, self.seed = accumulate, clip, seed
        self.output = output if output is None else Path(output)
        self.joint = self.accelerator.prepare(Joint(model, self.tasks, self.weighting))
        self.optimizer = self.accelerator.prepare(optimizer)
        self.scaler, self.device = self.accelerator.scaler, self.accelerator.device
        self.step, self.seconds, self.history = 0, 0.0, list[dict[str, Any]]()
        self.fitted: dict[str, Any] = {}

    def fit(
        self,
        dataset: Data,
        epochs: int,
        batch_size: int,
        *,
        validation: Data | None = None,
        weight_data: Data | None = None,
        resume: bool = False,
    ) -> list[dict[str, Any]]:
        """Trains for ``epochs`` epochs and returns the history: a row per epoch and task.

        Args:
            dataset: yields ``(input, {target name: labels})``; a data set, or a DataLoader, which
                lends its data set, workers and collate function, not its order and batch size.
            epochs: passes over the data, those of the run that is resumed included.
            batch_size: samples per optimizer step; the last step of an epoch may hold fewer.
            validation: scored after each epoch; it changes nothing.
            weight_data: what a weighting observes, a batch of ``batch_size`` before each step, in
                evaluation mode and without gradient. Keep it apart from the other two.
            resume: continue from the newest checkpoint in ``output``, if there is one. The run then
                ends as it would have without the interruption, bit for bit on one device.

        Raises:
            ValueError: for data without a task's labels, an output directory that is not writable
                or holds another run, or a checkpoint of different settings; before any work.
            FloatingPointError: where a task's loss is no longer finite at the end of an epoch.
        """
        if min(epochs, batch_size) < 1:
            raise ValueError(f"epochs, batch_size must be at least 1; got {epochs}, {batch_size}.")
        if self.weighting.observes and weight_data is None:
            raise ValueError(f"{type(self.weighting).__name__} learns from weight_data; got None.")
        if resume and self.output is None:
            raise ValueError("resume needs the trainer's output directory; got None.")
        sets = {"dataset": dataset, "validation": validation, "weight_data": weight_data}
        for role, data in sets.items():
            check_data(role, data, self.tasks)
        check_stages(self.stages, self.tasks, epochs)
        if not self.model.training:
            self.model.train()
        size = len(samples(dataset))
        check_batch_norm(self.model, (size % batch_size or batch_size) // self.accumulate)
        self.fitted = {"batch_size": batch_size, "samples": size}
        self.step, self.seconds, self.history = 0, 0.0, []
        set_seed(self.seed)
        if self.output is not None:
            report.claim(self.output, resume=resume)
            if resume and (newest := checkpoint.newest(self.output / "checkpoints")):
                self._resume(newest)
        steps = -(-size // batch_size)
        stream = None
        if weight_data is not None and self.weighting.observes:
            own = self.seed + WEIGHT_STREAM
            stream = endless(weight_data, batch_size, self.device, own, position=self.step)
        # A file or a pipe keeps every state of the bar: a few suffice.
        often = 0.2 if sys.stderr.isatty() else 5
        with tqdm(total=epochs * steps, initial=self.step, unit="step", mininterval=often) as bar:
            for epoch in range(self.step // steps, epochs):
                bar.set_description(f"epoch {epoch + 1}/{epochs}", refresh=False)
                started = time.perf_counter()
                learned = self._epoch(dataset, epoch, batch_size, stream, bar)
                self.seconds += time.perf_counter() - started
                check_finite(learned, epoch)
                scores = {} if validation is None else self.evaluate(validation, batch_size)
                self.history += report.rows(epoch + 1, self.step, learned, scores)
                if self.output is not None:
                    self._save(self.output)
        if self.output is not None:
            report.draw(self.output, self.names, self.history)
        return self.history

    def _epoch(
        self, dataset: Data, epoch: int, batch_size: int, stream: Iterator[Batch] | None, bar: Any
    ) -> dict[str, dict[str, Any]]:
        """Trains for one epoch and returns each task's weight, mean loss and number of labels."""
        size = len(samples(dataset))
        steps = plan(size, batch_size, seed=self.seed, epoch=epoch, micro=self.accumulate)
        batches = load(dataset, [part for step in steps for part in step], self.device)
        active = active_tasks(self.stages, self.tasks, epoch)
        total, labels = torch.zeros_like(self.joint.static), torch.zeros_like(self.joint.static)
        for number, step in enumerate(steps):
            if stream is not None:
                self._observe(next(stream), active)
            sums, counts = self._step([next(batches) for _ in step], sum(map(len, step)), active)
            total, labels = total + sums, labels + counts
            if number % max(1, len(steps) // 5) == 0:
                bar.set_postfix_str(report.brief(self.names, (total / labels).tolist()), False)
            bar.update()
        weights = self.weighting.weights * self.joint.static
        columns = (weights.tolist(), (total / labels).tolist(), labels.long().tolist())
        return {
            name: {"weight": weight, "loss": loss if count else None, "count": count}
            for name, weight, loss, count in zip(self.names, *columns, strict=True)
        }

    def _step(self, batches: Sequence[Batch], rows: int, active: Sequence[Task]) -> Pair:
        """Takes one optimizer step and returns its (T,) summed losses and (T,) labelled counts."""
        self.optimizer.zero_grad()
        counts = torch.stack([self.joint.counts(batch[1], active) for batch in batches]).sum(0)
        divisors = self.joint.divisors(counts, rows)
        total = torch.zeros_like(divisors)
        for batch in batches:
            loss, sums = self.joint(batch, active, counts, divisors)
            self.accelerator.backward(loss)
            total = total + sums
        if self.clip is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        if self.scheduler is not None and not self.optimizer.step_was_skipped:
            self.scheduler.step()
        self.step += 1
        return total, counts

    def _observe(self, batch: Batch, active: Sequence[Task]) -> None:
        """Shows the weighting one batch of weight data; the model stays as it is."""
        counts = self.joint.counts(batch[1], active)
        with evaluating(self.model), self.accelerator.autocast():
            losses = self.joint.sums(*batch, active) / counts.clamp(min=1)
        self.weighting.observe(losses, counts)

    def evaluate(self, dataset: Data, batch_size: int = 256) -> Scores:
        """Returns for each task its mean ``loss`` over a data set, labelled ``count``, ``metrics``.

        A loss or metric that is not defined (no labels, or one class where two are needed) is None.
        """
        check_data("validation", dataset, self.tasks)
        with evaluating(self.model), self.accelerator.autocast():
            batches = once(dataset, batch_size, self.device)
            pairs = [send_to_device((self.model(batch[0]), batch[1]), "cpu") for batch in batches]
        outputs, targets = concatenate(pairs)
        scored = [task.score(convert_to_fp32(outputs), targets).items() for task in self.tasks]
        return {name: score for items in scored for name, score in items}

    def predict(self, dataset: Data, batch_size: int = 256) -> dict[str, Tensor]:
        """Returns the outputs of the heads for a whole data set, on the CPU; labels are not needed.

        Heads that serve auxiliary tasks alone do not run.
        """
        spare = {task.output for task in self.tasks if task.auxiliary}
        spare -= {task.output for task in self.tasks if not task.auxiliary}
        heads = [name for name in self.model.heads if name not in spare]
        with evaluating(self.model), self.accelerator.autocast():
            batches = once(dataset, batch_size, self.device)
            parts = [send_to_device(self.model(batch[0], heads), "cpu") for batch in batches]
        return convert_to_fp32(concatenate(parts))

    def settings(self) -> dict[str, Any]:
        """Returns everything that decides the outcome of a run, as JSON can hold it."""
        return {
            "tasks": [task.settings() for task in self.tasks],
            "stages": [asdict(stage) for stage in self.stages],
            "weighting": repr(self.weighting),
            "optimizer": {
                "name": type(self.optimizer.optimizer).__name__,
                **self.optimizer.defaults,
            },
            "scheduler": self.scheduler and type(self.scheduler).__name__,
            "precision": self.accelerator.mixed_precision,
            "accumulate": self.accumulate,
            "clip": self.clip,
            "seed": self.seed,
            **self.fitted,
        }

    def _parts(self) -> dict[str, Any]:
        """Returns everything with a state_dict that a run must continue with."""
        return {name: part for name in PARTS if (part := getattr(self, name)) is not None}

    def _identity(self) -> dict[str, Any]:
        """Returns what a run and the checkpoint it continues from must have in common."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        return self.settings() | {"model": shapes}

    def _save(self, output: Path) -> None:
        """Writes a checkpoint and the history so far."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        state = {name: getattr(self, name) for name in POSITION}
        state |= {"random": checkpoint.random_state(), "identity": self._identity()}
        checkpoint.save(output / "checkpoints", self.step, state | parts)
        report.write_history(output, self.history)

    def _resume(self, path: Path) -> None:
        """Puts everything back as the checkpoint has it."""
        state = checkpoint.load(path)
        if difference := checkpoint.difference(state["identity"], self._identity()):
            raise ValueError(f"{path} is of another run: {difference}.")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        for name in POSITION:
            setattr(self, name, state[name])
        checkpoint.restore_random_state(state["random"])
