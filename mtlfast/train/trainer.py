"""The trainer: a multi-task step that fits one screen, on Hugging Face Accelerate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mtlfast.data import Data, Plan, Step
from mtlfast.train import checks, inference
from mtlfast.train.joint import Joint, wrap
from mtlfast.train.model import MultiTaskModel
from mtlfast.train.options import Options
from mtlfast.train.output import TENSORBOARD, claimed
from mtlfast.train.report.pictures import draw_run
from mtlfast.train.resuming import Checkpoints
from mtlfast.train.rules import Best, EarlyStopping
from mtlfast.train.run import Run
from mtlfast.train.schedule import Stage, TaskStopping, active_tasks
from mtlfast.train.sources import Batch, Source, endless, read, sources
from mtlfast.train.tasks import Scores, Task
from mtlfast.train.watch import Watch
from mtlfast.weighting import Weighting

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
        given = {name: value for name, value in locals().items() if name != "self"}
        self.options = options = Options(**given)
        self.model, self.weighting, self.output = model, options.weighting, options.output
        self.tasks: list[Task] = options.tasks
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
        wraps = self.scaler is not None
        self.optimizer: Any = self.accelerator.prepare(optimizer) if wraps else optimizer
        self.wrapped: nn.Module = self.joint
        self.run = self._begun()
        self.names = self.run.names

    def _begun(self, **fitted: Any) -> Run:
        """Returns the record of a run at its start."""
        options = self.options
        settings = {**options.settings(), "processes": self.processes, **fitted}
        return Run(self.tasks, settings, options.stopping, options.best, self.device)

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
        options, joint, accelerator = self.options, self.joint, self.accelerator
        checks.check_fit(options, data, epochs, batch_size, weight_batch_size, flags)
        for source in chain(*data.values()):
            checks.check_source(joint, accelerator, source)
        lengths = {role: [len(source) for source in parts] for role, parts in data.items()}
        sampling, processes = getattr(dataset, "sampling", "proportional"), self.processes
        seed, micro = options.seed, options.accumulate
        plan = Plan(lengths["dataset"], batch_size, seed, micro, processes, sampling)
        size, seed = weight_batch_size or batch_size, seed + WEIGHT_STREAM
        weight_plan = Plan(lengths["weight_data"], size, seed, 1, processes, "max_size_cycle")
        if not self.model.training:
            self.model.train()
        checks.check_plan(joint, accelerator, data["dataset"], plan, epochs)
        some = len(data["dataset"]) > 1 or bool(options.stages or options.stopping)
        self.wrapped = wrap(accelerator, joint, some_tasks=some)
        self.run = run = self._begun(
            samples=plan.lengths,
            batch_size=batch_size,
            sampling=plan.sampling,
            weight_samples=weight_plan.lengths,
            weight_batch_size=weight_plan.batch_size,
        )
        set_seed(options.seed, device_specific=True)
        with ExitStack() as stack:
            checkpoints = None
            if self.output is not None:
                checkpoints = Checkpoints(options, run, joint, self.optimizer, accelerator)
                again = {"resume": resume, "overwrite": overwrite}
                stack.enter_context(claimed(self.output, accelerator, **again))
                if resume:
                    checkpoints.resume()
            if options.tensorboard:
                accelerator.init_trackers(TENSORBOARD)
            at = {"rank": accelerator.process_index, "start": run.step}
            stream = endless(data["weight_data"], weight_plan, self.device, **at)
            given = run, joint, accelerator, checkpoints, data["validation"]
            watch = Watch(*given, epochs, len(plan))
            with watch.going():
                for epoch in range(run.step // len(plan), epochs):
                    which = partial(active_tasks, options.stages, self.tasks, stopped=run.stopped)
                    if run.ended or not any(map(which, range(epoch, epochs))):
                        break
                    active = which(epoch)
                    watch.begin(epoch)
                    self._epoch(data["dataset"], plan.epoch(epoch), epoch, active, stream, watch)
                    watch.after_epoch(epoch, active)
            if checkpoints is not None:
                checkpoints.finish()
            for tracker in accelerator.trackers:
                tracker.finish()
            if self.output is not None and pictures and accelerator.is_main_process:
                draw_run(self.output, run)
        return run.history

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
        first = self.run.step % len(steps)
        if first == 0:
            self.run.running.zero_()
        rank, key = self.accelerator.process_index, (self.options.seed, epoch)
        batches = read(data, steps[first:], active, self.device, rank=rank, seed=key)
        for number, micro in enumerate(batches, first + 1):
            if self.weighting.observes:
                inference.observe(self.accelerator, self.joint, next(stream), active)
            if micro:
                self._step(micro)
            self.run.step += 1
            watch.after_step(number)

    def _step(self, batches: Sequence[Batch]) -> None:
        """Takes one optimizer step on micro-batches, of which every process has its slices."""
        joint, accelerator = self.joint, self.accelerator
        self.optimizer.zero_grad()
        present = [joint.labelled(batch) for batch in batches]
        counts = torch.stack([joint.counts(here) for here in present]).sum(0)
        labelled = accelerator.reduce(counts, "sum")
        divisors = joint.divisors(labelled, batches)
        sums = torch.zeros_like(self.run.running[0])
        for batch, here in zip(batches, present, strict=True):
            with accelerator.no_sync(self.wrapped) if batch is not batches[-1] else nullcontext():
                loss, own = self.wrapped(batch, here, labelled, divisors)
                accelerator.backward(loss)
            sums += own
        self.weighting.advance(sums * joint.static / counts.clamp(min=1), counts)
        if self.options.clip is not None:
            accelerator.clip_grad_norm_(joint.parameters(), self.options.clip)
        self.optimizer.step()
        skipped = self.scaler is not None and self.optimizer.step_was_skipped
        if self.options.scheduler is not None and not skipped:
            self.options.scheduler.step()
        self.run.running += torch.stack((sums, counts))

    def evaluate(self, dataset: Data, batch_size: int = 256) -> Scores:
        """Returns for each task its mean ``loss`` over a data set, labelled ``count``, ``metrics``.

        A loss or metric that is not defined (no labels, or one class where two are needed) is None.
        With several processes each reads a share, and all return the scores of the whole.
        """
        for source in (data := sources("dataset", dataset, self.tasks)):
            source.needed = False  # of a task without labels the scores are None
            checks.check_source(self.joint, self.accelerator, source)
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
