"""The trainer: a multi-task step that fits one screen, on Hugging Face Accelerate."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mtlfast.train import checks, history, inference, state
from mtlfast.train.best import Best, EarlyStopping
from mtlfast.train.checks import several
from mtlfast.train.continuing import underway
from mtlfast.train.data import Data
from mtlfast.train.joint import Joint, wrap
from mtlfast.train.model import MultiTaskModel
from mtlfast.train.reading import Batch, Source, endless, read, sources
from mtlfast.train.sampler import Plan, Step
from mtlfast.train.schedule import Stage, TaskStopping, active_tasks
from mtlfast.train.tasks import Scores, Task, task_names
from mtlfast.train.watch import Watch
from mtlfast.weighting import Fixed, Weighting

__all__ = ["Trainer"]

# Added to the seed, so that weight data is read in another order than training data.
WEIGHT_STREAM = 2**32


class Trainer:
    """Trains a multi-task model on data in which labels may be missing.

    One optimizer step takes ``batch_size`` samples, cut into ``accumulate`` micro-batches, each cut
    over all processes. Every piece is divided by the labels of the whole step, so that together
    they give the step's exact gradient (BatchNorm, which sees one piece at a time, aside).

    Args:
        model: a MultiTaskModel.
        tasks: what it learns, a Task or several.
        optimizer: a torch optimizer over all parameters: of model, weighting and losses.
        weighting: of ``mtlfast.weighting``; None: all tasks count 1. Times a Task's own ``weight``.
        scheduler: a torch learning-rate scheduler of that optimizer, stepped as often as it is.
        stages: which tasks are trained when; by default all of them, always.
        stopping: rules that end single tasks or the run: ``TaskStopping``, ``EarlyStopping``.
        best: the score by which the best epoch is chosen, as ``"loss"`` or ``"digit/accuracy"``;
            after training the model has the weights of that epoch. None: of the last one.
        precision: ``"no"``, ``"bf16"`` or, on a GPU, ``"fp16"``: Accelerate's mixed precision.
        accumulate, clip: micro-batches per optimizer step; largest norm of the gradient, or None.
        output: directory for checkpoints, history and pictures; None writes nothing.
        checkpoint_every, keep: optimizer steps between checkpoints, beside the one after each
            epoch; and how many of them stay.
        tensorboard: whether losses, weights and scores also go to TensorBoard, below ``output``.
        seed: seeds the order of the data and, in ``fit``, the global random generators.

    Raises:
        ValueError: for arguments that cannot work together, before any work.

    Example:
        >>> data = [(torch.zeros(4), {"odd": torch.tensor(label)}) for label in (0, 1, -1)]
        >>> model = MultiTaskModel(nn.Identity(), {"odd": nn.Linear(4, 2)})
        >>> task = Task("odd", output="odd", target="odd", loss="cross_entropy")
        >>> trainer = Trainer(model, task, torch.optim.SGD(model.parameters(), 0.1))
        >>> trainer.evaluate(data)["odd"]["count"]
        2
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
        stopping: Sequence[TaskStopping | EarlyStopping] = (),
        best: str | Best | None = None,
        precision: str = "no",
        accumulate: int = 1,
        clip: float | None = None,
        output: str | Path | None = None,
        checkpoint_every: int | None = None,
        keep: int = 2,
        tensorboard: bool = False,
        seed: int = 0,
    ) -> None:
        self.model, self.tasks, self.stages = model, several(tasks), several(stages or ())
        self.stopping, self.best = several(stopping), Best(best) if isinstance(best, str) else best
        self.scheduler, self.precision, self.accumulate = scheduler, precision, accumulate
        self.clip, self.seed, self.keep = clip, seed, keep
        self.checkpoint_every, self.tensorboard = checkpoint_every, tensorboard
        checks.check_types(self, optimizer, weighting, output)
        self.output = None if output is None else Path(output)
        self.names = task_names(self.tasks)
        self.weighting = Fixed([1.0] * len(self.names)) if weighting is None else weighting
        checks.check_options(self, optimizer)
        # Accelerate joins processes without a GPU only where it is told that there is none.
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=precision,
            log_with="tensorboard" if tensorboard else None,
            project_dir=self.output,
        )
        self.device, self.scaler = self.accelerator.device, self.accelerator.scaler
        self.processes = self.accelerator.num_processes
        self.joint = Joint(model, self.tasks, self.weighting, self.processes).to(self.device)
        # The wrapped one looks for a package on disk in every step, and only the scaler needs it.
        self.optimizer: Any = (
            optimizer if self.scaler is None else self.accelerator.prepare(optimizer)
        )
        self.optimizer_settings = state.optimizer_settings(optimizer)
        self.wrapped: nn.Module = self.joint
        self.fitted: dict[str, Any] = {}
        self._rules = copy.deepcopy((self.stopping, self.best))
        self._begin()

    def _begin(self) -> None:
        """Sets the position of a run to its start."""
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        # The sums of the tasks' losses and their labels in this epoch, on this process.
        self.running = torch.zeros(2, len(self.names), dtype=exact, device=self.device)
        self.step, self.seconds = 0, 0.0
        self.history, self.renewals = list[dict[str, Any]](), history.Renewals()
        self.stopping, self.best = copy.deepcopy(self._rules)

    def fit(
        self,
        dataset: Data,
        epochs: int,
        batch_size: int,
        *,
        validation: Data | None = None,
        weight_data: Data | None = None,
        weight_batch_size: int | None = None,
        resume: bool = False,
        overwrite: bool = False,
        pictures: bool = True,
    ) -> list[dict[str, Any]]:
        """Trains for ``epochs`` epochs and returns the history: a row per epoch and task.

        With an output directory SIGINT and SIGTERM end the run between two steps, once it has
        written a checkpoint; with several processes at the next step that is a multiple of ten.

        Args:
            dataset: yields ``(input, {target name: labels})``, ``(input, labels)`` or mappings; a
                data set or a Subset; a DataLoader, which lends its workers, collate function and
                the rows of its sampler, not order or batch size; or ``TaskDatasets``.
            epochs: passes over the data, those of the run that is resumed included.
            batch_size: samples per optimizer step, of all processes together; the last step of an
                epoch may hold fewer.
            validation: scored after each epoch; it changes nothing but what ``stopping`` and
                ``best`` decide.
            weight_data: what a weighting observes, a batch before each step, in evaluation mode and
                without gradient. Keep it apart from the other two.
            weight_batch_size: samples of it per step; by default as many as ``batch_size``.
            resume: continue from the newest checkpoint in ``output``, if there is one. The run then
                ends as it would have without the interruption, bit for bit on one device.
            overwrite, pictures: remove an earlier run from ``output`` first; draw what came.

        Raises:
            ValueError: for data without a task's labels, an output directory that is not writable
                or holds another run, or a checkpoint of different settings; before any work.
            FloatingPointError: where a task's loss is no longer finite.
            Interrupted: after a signal; a KeyboardInterrupt.
        """
        roles = {"dataset": dataset, "validation": validation, "weight_data": weight_data}
        data = {r: sources(r, d, self.tasks, optional=r != "dataset") for r, d in roles.items()}
        flags = {"resume": resume, "overwrite": overwrite, "pictures": pictures}
        checks.check_fit(self, data, epochs, batch_size, weight_batch_size, flags)
        plan = Plan(
            [len(source) for source in data["dataset"]],
            batch_size,
            self.seed,
            self.accumulate,
            self.processes,
            getattr(dataset, "sampling", "proportional"),
        )
        weight_plan = Plan(
            [len(source) for source in data["weight_data"]],
            weight_batch_size or batch_size,
            self.seed + WEIGHT_STREAM,
            processes=self.processes,
            sampling="max_size_cycle",
        )
        if not self.model.training:
            self.model.train()
        checks.check_plan(self, data["dataset"], plan, epochs)
        self.fitted = {
            "samples": plan.lengths,
            "batch_size": batch_size,
            "sampling": plan.sampling,
            "weight_samples": weight_plan.lengths,
            "weight_batch_size": weight_plan.batch_size,
        }
        some = len(data["dataset"]) > 1 or bool(self.stages or self.stopping)
        self.wrapped = wrap(self.accelerator, self.joint, some_tasks=some)
        self._begin()
        set_seed(self.seed, device_specific=True)
        with (
            underway(self, resume, overwrite, pictures),
            Watch(self, epochs, len(plan), data["validation"]) as watch,
        ):
            at = {"rank": self.accelerator.process_index, "start": self.step}
            stream = endless(data["weight_data"], weight_plan, self.device, **at)
            for epoch in range(self.step // len(plan), epochs):
                which = partial(active_tasks, self.stages, self.tasks, stopped=self.stopped)
                if self.ended or not any(map(which, range(epoch, epochs))):
                    break
                active = which(epoch)
                watch.begin(epoch)
                self._epoch(data["dataset"], plan.epoch(epoch), epoch, active, stream, watch)
                watch.after_epoch(epoch, active)
        return self.history

    def _epoch(
        self,
        data: Sequence[Source],
        steps: Sequence[Step],
        epoch: int,
        active: Sequence[Task],
        stream: Iterator[list[Batch]],
        watch: Watch,
    ) -> None:
        """Trains through the steps of an epoch that are still to come."""
        first = self.step % len(steps)
        if first == 0:
            self.running.zero_()
        rank, key = self.accelerator.process_index, (self.seed, epoch)
        batches = read(data, steps[first:], active, self.device, rank=rank, seed=key)
        for number, micro in enumerate(batches, first + 1):
            if self.weighting.observes:
                inference.observe(self.accelerator, self.joint, next(stream), active)
            if micro:
                self._step(micro)
            self.step += 1
            watch.after_step(number)

    def _step(self, batches: Sequence[Batch]) -> None:
        """Takes one optimizer step on micro-batches, of which every process has its slices."""
        joint, accelerator = self.joint, self.accelerator
        self.optimizer.zero_grad()
        counts = torch.stack([joint.counts(batch) for batch in batches]).sum(0)
        labelled = accelerator.reduce(counts, "sum")
        divisors = joint.divisors(labelled, joint.rows(batches))
        sums = torch.zeros_like(self.running[0])
        for batch in batches:
            with accelerator.no_sync(self.wrapped) if batch is not batches[-1] else nullcontext():
                loss, own = self.wrapped(batch, labelled, divisors)
                accelerator.backward(loss)
            sums += own
        self.weighting.advance(sums * joint.static / counts.clamp(min=1), counts)
        if self.clip is not None:
            accelerator.clip_grad_norm_(joint.parameters(), self.clip)
        self.optimizer.step()
        skipped = self.scaler is not None and self.optimizer.step_was_skipped
        if self.scheduler is not None and not skipped:
            self.scheduler.step()
        self.running += torch.stack((sums, counts))

    def evaluate(self, dataset: Data, batch_size: int = 256) -> Scores:
        """Returns for each task its mean ``loss`` over a data set, labelled ``count``, ``metrics``.

        A loss or metric that is not defined (no labels, or one class where two are needed) is None.
        With several processes each reads a share, and all return the scores of the whole.
        """
        for source in (data := sources("dataset", dataset, self.tasks)):
            source.needed = False  # of a task without labels the scores are None
            checks.check_source(self, source)
        return inference.scores(self.accelerator, self.joint, data, batch_size)

    def predict(self, dataset: Data, batch_size: int = 256) -> dict[str, Tensor]:
        """Returns the outputs of the heads for a whole data set, on the CPU; labels are not needed.

        Heads that serve auxiliary tasks alone do not run.
        """
        spare = {task.output for task in self.tasks if task.auxiliary}
        spare -= {task.output for task in self.tasks if not task.auxiliary}
        heads = [name for name in self.model.heads if name not in spare]
        source = Source("dataset", dataset, self.tasks, labelled=False)
        return inference.outputs(self.accelerator, self.joint, source, batch_size, heads)

    @property
    def stopped(self) -> dict[str, int]:
        """The tasks that a rule has stopped, by their first names, and the epochs after which."""
        rules = (rule for rule in self.stopping if isinstance(rule, TaskStopping))
        return {name: epoch for rule in rules for name, epoch in rule.stopped.items()}

    @property
    def ended(self) -> bool:
        """Whether a rule has ended the run."""
        return any(isinstance(rule, EarlyStopping) and rule.ended for rule in self.stopping)
