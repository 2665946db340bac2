"""What a run is made of and where it stands: its settings, and what a checkpoint holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.optim import Optimizer

from mtlfast.train import checkpoint, history, pictures, randomness
from mtlfast.train.joint import share_buffers

if TYPE_CHECKING:
    from mtlfast.train.trainer import Trainer

__all__ = [
    "BEST",
    "POSITION",
    "check_finite",
    "check_weights",
    "draw",
    "finish",
    "identity",
    "optimizer_settings",
    "parts",
    "rules",
    "save",
    "save_best",
    "settings",
]

PARTS = ("weighting", "renewals", "optimizer", "scheduler", "scaler")
POSITION = ("step", "seconds", "history")
BEST = "best.safetensors"


def settings(trainer: Trainer) -> dict[str, Any]:
    """Returns everything that decides the outcome of a run, as JSON can hold it."""
    scheduler = trainer.scheduler
    return {
        "tasks": [task.settings() for task in trainer.tasks],
        "stages": [{"tasks": list(s.tasks), "epochs": s.epochs} for s in trainer.stages],
        "stopping": [repr(rule) for rule in trainer.stopping],
        "best": trainer.best and repr(trainer.best),
        "weighting": repr(trainer.weighting),
        "optimizer": trainer.optimizer_settings,
        "scheduler": scheduler and type(scheduler).__name__,
        "precision": trainer.accelerator.mixed_precision,
        "accumulate": trainer.accumulate,
        "clip": trainer.clip,
        "seed": trainer.seed,
        "processes": trainer.accelerator.num_processes,
        **trainer.fitted,
    }


def save(trainer: Trainer, output: Path) -> Path:
    """Writes a checkpoint between two optimizer steps, and returns its path.

    Raises:
        FloatingPointError: where the model holds a value that is not finite; nothing is written.
    """
    check_weights(trainer)
    state = {name: part.state_dict() for name, part in parts(trainer).items()}
    state |= {name: getattr(trainer, name) for name in POSITION}
    state |= {"rules": [rule.state_dict() for rule in rules(trainer)]}
    own = {"running": trainer.running.cpu(), "random": randomness.state(trainer.device)}
    state |= {"identity": identity(trainer), "own": gather_object([own])}
    folder = output / "checkpoints"
    path = checkpoint.step_path(folder, trainer.step)
    if trainer.accelerator.is_main_process:
        checkpoint.save(path, state)
        checkpoint.prune(folder, trainer.keep, trainer.step)
        history.write_history(output, trainer.history, trainer.renewals)
    return path


def check_weights(trainer: Trainer) -> None:
    """Checks that all that learns is finite and no buffer NaN, on all processes alike.

    Raises:
        FloatingPointError: with the first tensor that is not.
    """
    if trainer.processes > 1:
        share_buffers(trainer.joint)
    joint = trainer.joint
    # What weightings and losses remember may hold NaN or inf, where there is nothing yet.
    skipped = {id(b) for part in (joint.weighting, joint.losses) for b in part.buffers()}
    for name, tensor in joint.state_dict(keep_vars=True).items():
        if id(tensor) in skipped or not torch.is_tensor(tensor) or not tensor.is_floating_point():
            continue
        # A buffer may hold -inf for good, as a causal mask does.
        learns = isinstance(tensor, nn.Parameter)
        if (~tensor.isfinite() if learns else tensor.isnan()).any():
            raise FloatingPointError(
                f"{name} is no longer finite at step {trainer.step}{_newest(trainer.output)}"
            )


def check_finite(trainer: Trainer, sums: list[float]) -> None:
    """Checks the tasks' summed losses.

    Raises:
        FloatingPointError: with the first task whose loss is not finite, and the newest checkpoint.
    """
    for name, total in zip(trainer.names, sums, strict=True):
        if not math.isfinite(total):
            raise FloatingPointError(
                f"the loss of task {name!r} became {total} by step {trainer.step}"
                f"{_newest(trainer.output)}"
            )


def _newest(output: Path | None) -> str:
    """Returns the end of a message: which checkpoint is from before the trouble."""
    path = output and checkpoint.newest(output / "checkpoints")
    return f"; {path} is from before it." if path else "; there is no checkpoint from before it."


def parts(trainer: Trainer) -> dict[str, Any]:
    """Returns everything with a state_dict that a run must continue with."""
    parts = {"model": trainer.model, "losses": trainer.joint.losses}
    return parts | {name: part for name in PARTS if (part := getattr(trainer, name)) is not None}


def rules(trainer: Trainer) -> list[Any]:
    """Returns what decides by the scores of each epoch."""
    return [*trainer.stopping, *([] if trainer.best is None else [trainer.best])]


def identity(trainer: Trainer) -> dict[str, Any]:
    """Returns what a run and the checkpoint it continues from must have in common."""
    state = trainer.model.state_dict()
    shapes = {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}
    return settings(trainer) | {"model": shapes}


def save_best(trainer: Trainer, output: Path) -> None:
    """Writes the model of the epoch that is the best so far."""
    if trainer.accelerator.is_main_process:
        checkpoint.save(output / "checkpoints" / BEST, {"model": trainer.model.state_dict()})


def finish(trainer: Trainer, output: Path, pictured: bool) -> None:
    """Ends a run: gives the model the weights of the best epoch, and draws it where asked."""
    trainer.accelerator.wait_for_everyone()
    best = trainer.best
    if best is not None and best.epoch is not None:
        trainer.model.load_state_dict(checkpoint.load(output / "checkpoints" / BEST)["model"])
    for tracker in trainer.accelerator.trackers:
        tracker.finish()
    if pictured:
        draw(trainer, output)


def draw(trainer: Trainer, output: Path) -> None:
    """Draws the pictures of a run; the main process does."""
    if trainer.accelerator.is_main_process:
        best = None if trainer.best is None else trainer.best.epoch
        pictures.draw(output, trainer.names, trainer.history, trainer.renewals, best=best)


def optimizer_settings(optimizer: Optimizer) -> dict[str, Any]:
    """Returns an optimizer's name, and its parameter groups as they were at first."""
    hidden = ("params", "initial_lr")
    groups = [{k: v for k, v in g.items() if k not in hidden} for g in optimizer.param_groups]
    return {"name": type(optimizer).__name__, "groups": groups}
