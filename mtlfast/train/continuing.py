"""How a run begins and ends in its output directory, and goes on from a checkpoint there."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object

from mtlfast.train import checkpoint, randomness, report, state
from mtlfast.train.checkpoint import misfit
from mtlfast.train.output import agreed, claimed
from mtlfast.writing import brief

if TYPE_CHECKING:
    from mtlfast.train.trainer import Trainer

__all__ = ["underway"]

# What every row of the history holds, beside validation scores.
ROW = {"epoch": 1, "step": 1, "task": "", "weight": 1.0, "train_loss": None, "train_labels": 1}


@contextmanager
def underway(trainer: Trainer, resume: bool, overwrite: bool, pictures: bool) -> Iterator[None]:
    """Within it the run has its output directory; it goes on from the newest checkpoint if asked.

    At the end the model gets the weights of the best epoch, and `pictures` are drawn if asked.

    Raises:
        ValueError: where the directory cannot be written, or holds another run.
    """
    output = trainer.output
    if output is None:
        yield
        return
    with claimed(output, trainer.accelerator, resume=resume, overwrite=overwrite):
        checkpoint.check(state.identity(trainer))
        if resume:
            _resume(trainer, output / "checkpoints")
        if trainer.tensorboard:
            trainer.accelerator.init_trackers(report.TENSORBOARD)
        yield
        state.finish(trainer, output, pictures)


def _resume(trainer: Trainer, folder: Path) -> None:
    """Goes on from the newest checkpoint, the same one in all processes; says if there is none."""
    with agreed():
        found = checkpoint.load_newest(folder, lambda path, held: _check(trainer, path, held))
    names = gather_object([found and found[0].name])
    if len(set(names)) > 1:
        raise ValueError(f"all processes must see the same checkpoints; got {names}.")
    if found is None:
        if trainer.accelerator.is_main_process:
            warnings.warn(f"{folder} holds no checkpoint: the run starts afresh.", stacklevel=2)
        return
    with agreed():
        _restore(trainer, *found)
        if trainer.best is not None and trainer.best.epoch is not None:
            path = folder / state.BEST  # looked at now: it would be missed at the end
            if odd := misfit({"model": trainer.model.state_dict()}, checkpoint.load(path)):
                raise checkpoint.Damaged(path, odd)


def _check(trainer: Trainer, path: Path, held: dict[str, Any]) -> None:
    """Checks that a checkpoint is of this run, and laid out as this run's would be.

    Raises:
        ValueError: where it is of other settings, with the first that differs.
        Damaged: where it is laid out otherwise.
    """
    difference = None
    try:
        odd = misfit({}, held["identity"], "identity")
        if not odd and not (
            difference := checkpoint.difference(held["identity"], state.identity(trainer))
        ):
            odd = _misfit(trainer, held)
    except Exception as error:  # of what depth or kind the states of others are
        raise checkpoint.Damaged(path, brief(error)) from error
    if odd:
        raise checkpoint.Damaged(path, odd)
    if difference:
        raise ValueError(f"{path} is of another run: {difference}.")


def _misfit(trainer: Trainer, held: dict[str, Any]) -> str | None:
    """Returns the first place where a state is laid out otherwise than this run's, or None."""
    own: dict[str, Any] = {name: getattr(trainer, name) for name in state.POSITION}
    own |= {"rules": [rule.state_dict() for rule in state.rules(trainer)]}
    for name, part in state.parts(trainer).items():
        own[name] = part.state_dict()
        # Those of others may remember what they like.
        if name in ("optimizer", "scheduler") and not _is_torchs(part):
            own[name] = {}
    own["optimizer"] = own["optimizer"] and {**own["optimizer"], "state": {}}
    count, tasks = len(held["renewals"]["steps"]), len(trainer.names)
    weights = torch.zeros(count, tasks, dtype=torch.float64)
    own["renewals"] |= {"steps": [0] * count, "weights": weights}
    if odd := misfit(own, {name: held[name] for name in own}):
        return odd
    if isinstance(held["step"], float) or held["step"] < 0:
        return f"step is {held['step']}"
    for number, row in enumerate(held["history"]):
        if odd := misfit(ROW, {name: row[name] for name in ROW}, f"history[{number}]"):
            return odd
        if row["task"] not in trainer.names:
            return f"history[{number}].task is {row['task']!r}"
    mine, random = held["own"][trainer.accelerator.process_index], randomness.state(trainer.device)
    # The device's generator is there if the run was on such a device, else it stays as seeded.
    if "device" not in mine["random"]:
        random.pop("device", None)
    drawn = {name: mine["random"][name] for name in random}
    return (
        misfit({"running": trainer.running.cpu()}, {"running": mine["running"]}, "own")
        or misfit(random, drawn, "random")
        or _odd_memory(trainer, held["optimizer"]["state"])
    )


def _odd_memory(trainer: Trainer, held: dict[int, dict[str, Any]]) -> str | None:
    """Returns where what an optimizer remembers does not fit its parameters, or None."""
    groups = trainer.optimizer.param_groups if _is_torchs(trainer.optimizer) else []
    start = 0
    for group in groups:
        end = start + len(group["params"])
        memories = {number: held[number] for number in range(start, end) if number in held}
        alike: dict[int, Any] = {}  # matrices may be remembered otherwise than vectors
        for number, memory in memories.items():
            place, shape = f"optimizer.state[{number}]", group["params"][number - start].shape
            if memory.keys() != alike.setdefault(len(shape), memory.keys()):
                return f"{place} has other keys than its neighbours"
            for name, value in memory.items():
                size = getattr(value, "shape", ())
                fits = len(size) == len(shape) and all(
                    n in (1, whole) for n, whole in zip(size, shape, strict=True)
                )
                if isinstance(value, str | list | dict) or not (fits or math.prod(size) == 1):
                    return f"{place}.{name} does not fit a parameter of shape {tuple(shape)}"
        start = end
    return None


def _is_torchs(part: Any) -> bool:
    """Whether an optimizer or scheduler is one of torch's, whose memory has a known form."""
    part = part.optimizer if isinstance(part, AcceleratedOptimizer) else part
    return type(part).__module__.startswith("torch.optim")


def _restore(trainer: Trainer, path: Path, held: dict[str, Any]) -> None:
    """Puts everything back as a checkpoint has it, which ``_check`` has seen.

    Raises:
        Damaged: where a part of the trainer does not take it.
    """
    try:
        for name, part in state.parts(trainer).items():
            part.load_state_dict(held[name])
        for name in state.POSITION:
            setattr(trainer, name, held[name])
        own = held["own"][trainer.accelerator.process_index]
        trainer.running = own["running"].to(trainer.device)
        for rule, told in zip(state.rules(trainer), held["rules"], strict=True):
            rule.load_state_dict(told)
        randomness.restore(own["random"], trainer.device)
    except Exception as error:  # of parts that are not ours too
        raise checkpoint.Damaged(path, brief(error)) from error
