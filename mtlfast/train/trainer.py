"""The trainer: a multi-task step that fits one screen, on Accelerate's devices, precision and clipping."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm.auto import tqdm

from mtlfast.train import checkpoint, report
from mtlfast.train.data import Batch, Data, check_data, endless, in_order, load, plan, samples
from mtlfast.train.model import Joint, MultiTaskModel, evaluating
from mtlfast.train.schedule import Stage, active_tasks, check_stages
from mtlfast.train.tasks import Task, task_names
from mtlfast.weighting import Fixed, Weighting

__all__ = ["Trainer"]

Scores = dict[str, dict[str, Any]]
# Added to the seed, so that weight data is read in another order than training data.
WEIGHT_STREAM = 2**32
POSITION = ("step", "seconds", "history")


class Trainer:
    """Trains a multi-task model on data in which labels may be missing.

    One optimizer step takes ``batch_size`` samples, cut into ``accumulate`` micro-batches. Each is divided
    by the labels of the whole step, so that together they give the step's exact gradient (BatchNorm, which
    sees one micro-batch at a time, aside).

    Args:
        model: a MultiTaskModel.
        tasks: what it learns, a Task or several.
        optimizer: a torch optimizer over the model's parameters.
        weighting: turns the T losses into one, as ``mtlfast.weighting.ValidationLossTrend`` does; by
            default every task counts 1. A Task's own ``weight`` is multiplied in.
        scheduler: a torch learning-rate scheduler of that optimizer, stepped once per optimizer step.
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
        self.weighting = Fixed([1.0] * len(self.names)) if weighting is None else weighting
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"tasks must have different names, at least one; got {self.names}.")
        for task in self.tasks:
            if task.output not in model.heads:
                heads = sorted(model.heads)
                raise ValueError(f"{task} needs a head {task.output!r}; the model has {heads}.")
        if len(self.weighting.weights) != len(self.names):
            got = len(self.weighting.weights)
            raise ValueError(
                f"weighting must have {len(self.names)} weights, one per task; got {got}."
            )
        if precision not in ("no", "bf16", "fp16"):
            raise ValueError(f"precision must be 'no', 'bf16' or 'fp16'; got {precision!r}.")
        if precision == "fp16" and not torch.cuda.is_available():
            raise ValueError("precision 'fp16' needs a GPU, and there is none; use 'bf16' or 'no'.")
        if accumulate < 1 or (accumulate > 1 and not self.weighting.linear):
            most = (
                "at least 1" if self.weighting.linear else "1 with weights that learn by gradient"
            )
            raise ValueError(f"accumulate must be {most}; got {accumulate}.")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be positive or None; got {clip}.")
        if seed < 0:
            raise ValueError(f"seed must not be negative; got {seed}.")
        if (
            isinstance(scheduler, ReduceLROnPlateau)
            or getattr(scheduler, "optimizer", optimizer) is not optimizer
        ):
            raise ValueError(
                "scheduler must be of the same optimizer, and not one that is stepped by a metric."
            )
        self.accelerator = Accelerator(mixed_precision=precision)
        if self.accelerator.num_processes > 1:
            raise ValueError(f"Trainer runs in one process; got {self.accelerator.num_processes}.")
        self.model, self.stages, self.scheduler = model, list(stages or ()), scheduler
        self.accumulate, self.clip, self.seed = accumulate, clip, seed
        self.output = None if output is None else Path(output)
        self.joint = self.accelerator.prepare(Joint(model, self.tasks, self.weighting))
        self.optimizer = self.accelerator.prepare(optimizer)
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
            dataset: yields ``(input, {target name: labels})``; a data set, or a DataLoader, which lends its
                data set, workers and collate function, but not its order and batch size.
            epochs: passes over the data, those of the run that is resumed included.
            batch_size: samples per optimizer step; the last step of an epoch may hold fewer.
            validation: scored after each epoch; it changes nothing.
            weight_data: what a weighting observes: one batch of ``batch_size`` before each step, in
                evaluation mode and without gradient. Keep it apart from ``dataset`` and ``validation``.
            resume: continue from the newest checkpoint in ``output``, if there is one. The run then
                ends as it would have without the interruption, bit for bit on one device.

        Raises:
            ValueError: for data without a task's labels, an output directory that is not writable or holds
                another run, or a checkpoint of different settings; before any work.
            FloatingPointError: where a task's loss is no longer finite at the end of an epoch.
        """
        if epochs < 1 or batch_size < 1:
            raise ValueError(
                f"epochs and batch_size must be at least 1; got {epochs} and {batch_size}."
            )
        if self.weighting.observes and weight_data is None:
            raise ValueError(f"{type(self.weighting).__name__} learns from weight_data; got None.")
        for role, data in (
            ("dataset", dataset),
            ("validation", validation),
            ("weight_data", weight_data),
        ):
            if data is not None:
                check_data(role, data, self.tasks)
        check_stages(self.stages, self.tasks, epochs)
        self.fitted = {"batch_size": batch_size, "samples": len(samples(dataset))}
        self.step, self.seconds, self.history = 0, 0.0, []
        set_seed(self.seed)
        if self.output is not None:
            report.claim(self.output, resume=resume)
            newest = checkpoint.newest(self.output / "checkpoints")
            if resume and newest is not None:
                self._resume(newest)
        steps = -(-len(samples(dataset)) // batch_size)
        stream = None
        if weight_data is not None and self.weighting.observes:
            stream = endless(
                weight_data, batch_size, seed=self.seed + WEIGHT_STREAM, position=self.step
            )
        if not self.model.training:
            self.model.train()
        with tqdm(total=epochs * steps, initial=self.step, unit="step", mininterval=0.2) as bar:
            for epoch in range(self.step // steps, epochs):
                bar.set_description(f"epoch {epoch + 1}/{epochs}")
                started = time.perf_counter()
                losses, counts = self._epoch(dataset, epoch, batch_size, stream, bar)
                self.seconds += time.perf_counter() - started
                scores = {} if validation is None else self.evaluate(validation, batch_size)
                weights = (self.weighting.weights * self.joint.static).tolist()
                self.history += report.rows(
                    epoch + 1, self.step, self.names, weights, losses, counts, scores
                )
                if self.output is not None:
                    self._save(self.output)
        if self.output is not None:
            report.draw(self.output, self.names, self.history)
        return self.history

    def _epoch(
        self, dataset: Data, epoch: int, batch_size: int, stream: Iterator[Batch] | None, bar: Any
    ) -> tuple[list[float], list[int]]:
        """Trains for one epoch and returns each task's mean loss and number of labels."""
        size = len(samples(dataset))
        steps = plan(size, batch_size, seed=self.seed, epoch=epoch, micro=self.accumulate)
        batches = load(dataset, [part for step in steps for part in step])
        active = active_tasks(self.stages, self.tasks, epoch)
        total, labels = torch.zeros_like(self.joint.static), torch.zeros_like(self.joint.static)
        for number, step in enumerate(steps):
            if stream is not None:
                self._observe(next(stream), active)
            sums, counts = self._step([next(batches) for _ in step], sum(map(len, step)), active)
            total, labels = total + sums, labels + counts
            if number % max(1, len(steps) // 5) == 0:
                bar.set_postfix_str(report.brief(self.names, (total / labels).tolist()))
            bar.update()
        losses = (total / labels).tolist()
        for name, loss, count in zip(self.names, losses, labels.tolist(), strict=True):
            if count and not math.isfinite(loss):
                newest = self.output and checkpoint.newest(self.output / "checkpoints")
                raise FloatingPointError(
                    f"the loss of task {name!r} is {loss} in epoch {epoch + 1}; "
                    f"the last checkpoint before is {newest}."
                )
        return losses, labels.long().tolist()

    def _step(
        self, batches: Sequence[Batch], rows: int, active: Sequence[Task]
    ) -> tuple[Tensor, Tensor]:
        """Takes one optimizer step and returns its (T,) summed losses and (T,) labelled counts."""
        batches = [send_to_device(batch, self.accelerator.device) for batch in batches]
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
        self.optimizer.zero_grad()
        self.step += 1
        return total, counts

    def _observe(self, batch: Batch, active: Sequence[Task]) -> None:
        """Shows the weighting one batch of weight data; the model stays as it is."""
        inputs, targets = send_to_device(batch, self.accelerator.device)
        counts = self.joint.counts(targets, active)
        with evaluating(self.model), self.accelerator.autocast():
            outputs = self.model(inputs, dict.fromkeys(task.output for task in active))
            losses = self.joint.sums(outputs, targets, active) / counts.clamp(min=1)
        self.weighting.observe(losses, counts)

    def evaluate(self, dataset: Data, batch_size: int = 256) -> Scores:
        """Returns for each task its ``loss``, labelled ``count`` and ``metrics`` on a data set.

        The loss is the mean over labelled elements; it and any metric that is not defined (no labels, or
        a single class where two are needed) are None.
        """
        check_data("validation", dataset, self.tasks)
        outputs, targets = dict[str, list[Tensor]](), dict[str, list[Tensor]]()
        total, labels = torch.zeros_like(self.joint.static), torch.zeros_like(self.joint.static)
        with evaluating(self.model), self.accelerator.autocast():
            for batch in load(dataset, in_order(len(samples(dataset)), batch_size)):
                batch = send_to_device(batch, self.accelerator.device)
                given = self.model(batch[0])
                total = total + self.joint.sums(given, batch[1], self.tasks)
                labels = labels + self.joint.counts(batch[1], self.tasks)
                for kept, new in ((outputs, given), (targets, batch[1])):
                    for name, value in new.items():
                        kept.setdefault(name, []).append(value.cpu())
        scored = [
            metrics
            for task in self.tasks
            for metrics in task.score(
                torch.cat(outputs[task.output]), torch.cat(targets[task.target])
            )
        ]
        losses, counts = (total / labels).tolist(), labels.long().tolist()
        return {
            name: {"loss": loss if count else None, "count": count, "metrics": metrics}
            for name, loss, count, metrics in zip(self.names, losses, counts, scored, strict=True)
        }

    def predict(self, dataset: Data, batch_size: int = 256) -> dict[str, Tensor]:
        """Returns the output of each head for a whole data set, on the CPU; labels are not needed.

        Heads that serve auxiliary tasks alone do not run.
        """
        needed = {task.output for task in self.tasks if not task.auxiliary}
        spare = {task.output for task in self.tasks} - needed
        heads = [name for name in self.model.heads if name not in spare]
        parts: dict[str, list[Tensor]] = {name: [] for name in heads}
        with evaluating(self.model), self.accelerator.autocast():
            for batch in load(dataset, in_order(len(samples(dataset)), batch_size)):
                inputs = batch[0] if isinstance(batch, tuple | list) else batch
                outputs = self.model(send_to_device(inputs, self.accelerator.device), heads)
                for name in heads:
                    parts[name].append(outputs[name].cpu())
        return {name: torch.cat(part) for name, part in parts.items()}

    def settings(self) -> dict[str, Any]:
        """Returns everything that decides the outcome of a run, as JSON can hold it."""
        optimizer = self.optimizer.optimizer
        return {
            "tasks": [task.settings() for task in self.tasks],
            "stages": [
                {"tasks": list(stage.tasks), "epochs": stage.epochs} for stage in self.stages
            ],
            "weighting": repr(self.weighting),
            "optimizer": {"name": type(optimizer).__name__, **optimizer.defaults},
            "scheduler": self.scheduler and type(self.scheduler).__name__,
            "precision": self.accelerator.mixed_precision,
            "accumulate": self.accumulate,
            "clip": self.clip,
            "seed": self.seed,
            **self.fitted,
        }

    def _identity(self) -> dict[str, Any]:
        """Returns what a run and the checkpoint it continues from must have in common."""
        shapes = {name: tuple(value.shape) for name, value in self.model.state_dict().items()}
        return self.settings() | {"model": shapes}

    def _parts(self) -> dict[str, Any]:
        """Returns everything with a state_dict that a run must continue with."""
        parts = {
            "model": self.model,
            "weighting": self.weighting,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.accelerator.scaler,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _save(self, output: Path) -> None:
        """Writes a checkpoint and the history so far."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {name: getattr(self, name) for name in POSITION}
        state |= {"identity": self._identity(), "random": checkpoint.random_state()}
        checkpoint.save(output / "checkpoints", self.step, state)
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
