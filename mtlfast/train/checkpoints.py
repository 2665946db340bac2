"""The checkpoints of a run: written between its steps, and gone on from in its output directory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object

from mtlfast.train import checkpoint, randomness
from mtlfast.train.checkpoint import Damaged, difference, misfit
from mtlfast.train.joint import Joint
from mtlfast.train.options import Options
from mtlfast.train.output import agreed, claimed
from mtlfast.train.report import history
from mtlfast.train.run import Run
from mtlfast.writing import brief

__all__ = ["BEST", "Checkpoints"]

BEST = "best.safetensors"


class Checkpoints:
    """The checkpoints of a run.

    Args:
        options: of the trainer: the directory, and how many stay there.
        run: the record of the run.
        joint: what is trained.
        optimizer: by what, as the accelerator has prepared it.
        accelerator: whose processes take part; the main one writes.

    Raises:
        TypeError: where a checkpoint could not hold the settings.
    """

    def __init__(
        self, options: Options, run: Run, joint: Joint, optimizer: Any, accelerator: Accelerator
    ) -> None:
        self.output: Path = options.output
        self.folder = self.output / "checkpoints"
        self.every, self.keep = options.checkpoint_every, options.keep
        self.run, self.accelerator, self.model = run, accelerator, joint.model
        parts = {
            "model": joint.model,
            "losses": joint.losses,
            "weighting": joint.weighting,
            "optimizer": optimizer,
            "scheduler": options.scheduler,
            "scaler": accelerator.scaler,
        }
        # Beside the run, everything with a state_dict that it must continue with.
        self.parts = {name: part for name, part in parts.items() if part is not None}
        shapes = {
            name: tuple(getattr(value, "shape", ()))
            for name, value in self.model.state_dict().items()
        }
        # What a run and the checkpoint it continues from must have in common.
        self.identity = run.settings | {"model": shapes}
        checkpoint.check(self.identity)

    @contextmanager
    def claimed(self, resume: bool, overwrite: bool) -> Iterator[None]:
        """Within it the run has its directory; it goes on from the newest checkpoint if asked.

        Raises:
            ValueError: where the directory cannot be written, or holds another run.
        """
        with claimed(self.output, self.accelerator, resume=resume, overwrite=overwrite):
            if resume:
                self._resume()
            yield

    def save(self) -> Path:
        """Writes a checkpoint between two optimizer steps, and returns its path."""
        run = self.run
        state = {name: part.state_dict() for name, part in self.parts.items()} | run.state_dict()
        random = randomness.state(self.accelerator.device)
        own = {"running": state.pop("running"), "random": random}
        state |= {"identity": self.identity, "own": gather_object([own])}
        path = checkpoint.step_path(self.folder, run.step)
        if self.accelerator.is_main_process:
            checkpoint.save(path, state)
            checkpoint.prune(self.folder, self.keep, run.step)
            history.write_history(self.output, run.history, run.renewals)
        return path

    def save_best(self) -> None:
        """Writes the model of the epoch that is the best so far."""
        if self.accelerator.is_main_process:
            checkpoint.save(self.folder / BEST, {"model": self.model.state_dict()})

    def finish(self) -> None:
        """Ends the run: the model gets the weights of the best epoch."""
        self.accelerator.wait_for_everyone()
        if self._has_best:
            self.model.load_state_dict(checkpoint.load(self.folder / BEST)["model"])

    @property
    def _has_best(self) -> bool:
        return self.run.best is not None and self.run.best.epoch is not None

    def _resume(self) -> None:
        """Goes on from the newest checkpoint, the same in all processes; says if there is none."""
        with agreed():
            found = checkpoint.load_newest(self.folder, self._check)
        names = gather_object([found and found[0].name])
        if len(set(names)) > 1:
            raise ValueError(f"all processes must see the same checkpoints; got {names}.")
        if found is None:
            if self.accelerator.is_main_process:
                warnings.warn(
                    f"{self.folder} holds no checkpoint: the run starts afresh.", stacklevel=2
                )
            return
        with agreed():
            self._restore(*found)
            if self._has_best:
                path = self.folder / BEST  # looked at now: it would be missed at the end
                if odd := misfit({"model": self.model.state_dict()}, checkpoint.load(path)):
                    raise Damaged(path, odd)

    def _own(self, held: dict[str, Any]) -> dict[str, Any]:
        """Returns what a checkpoint holds of this process."""
        own: dict[str, Any] = held["own"][self.accelerator.process_index]
        return own

    def _check(self, path: Path, held: dict[str, Any]) -> None:
        """Checks that a checkpoint is of this run, and laid out as this run's would be.

        Raises:
            ValueError: where it is of other settings, with the first that differs.
            Damaged: where it is laid out otherwise.
        """
        try:
            if odd := misfit({}, held["identity"], "identity"):
                raise ValueError(odd)
            other = difference(held["identity"], self.identity)
            if not other and (odd := self._misfit(held)):
                raise ValueError(odd)
        except Exception as error:  # of what depth or kind the states of others are
            raise Damaged(path, brief(error)) from error
        if other:
            raise ValueError(f"{path} is of another run: {other}.")

    def _misfit(self, held: dict[str, Any]) -> str | None:
        """Returns the first place where a state is laid out otherwise than this run's, or None."""
        self.run.afresh().load_state_dict(held | {"running": self._own(held)["running"]})
        own: dict[str, Any] = {}
        for name, part in self.parts.items():
            # Those of others may remember what they like.
            theirs = name in ("optimizer", "scheduler") and not _is_torchs(part)
            own[name] = {} if theirs else part.state_dict()
        own["optimizer"] = own["optimizer"] and {**own["optimizer"], "state": {}}
        mine, random = self._own(held)["random"], randomness.state(self.accelerator.device)
        # The device's generator is there if the run was on such a device, else it stays as seeded.
        if "device" not in mine:
            random.pop("device", None)
        return (
            misfit(own, {name: held[name] for name in own})
            or misfit(random, {name: mine[name] for name in random}, "random")
            or _odd_memory(self.parts["optimizer"], held["optimizer"]["state"])
        )

    def _restore(self, path: Path, held: dict[str, Any]) -> None:
        """Puts everything back as a checkpoint has it, which ``_check`` has seen.

        Raises:
            Damaged: where a part does not take it.
        """
        own = self._own(held)
        try:
            for name, part in self.parts.items():
                part.load_state_dict(held[name])
            self.run.load_state_dict(held | {"running": own["running"]})
            randomness.restore(own["random"], self.accelerator.device)
        except Exception as error:  # of parts that are not ours too
            raise Damaged(path, brief(error)) from error


def _odd_memory(optimizer: Any, held: dict[int, dict[str, Any]]) -> str | None:
    """Returns where what an optimizer remembers does not fit its parameters, or None."""
    groups = optimizer.param_groups if _is_torchs(optimizer) else []
    alike: dict[tuple[int, int], Any] = {}  # matrices may be remembered otherwise than vectors
    places = [(place, p) for place, group in enumerate(groups) for p in group["params"]]
    for number, (group, parameter) in enumerate(places):
        if number not in held:
            continue
        place, shape, memory = f"optimizer.state[{number}]", parameter.shape, held[number]
        if memory.keys() != alike.setdefault((group, len(shape)), memory.keys()):
            return f"{place} has other keys than its neighbours"
        for name, value in memory.items():
            size = getattr(value, "shape", ())
            fits = len(size) == len(shape) and all(
                n in (1, whole) for n, whole in zip(size, shape, strict=True)
            )
            if isinstance(value, str | list | dict) or not (fits or math.prod(size) == 1):
                return f"{place}.{name} does not fit a parameter of shape {tuple(shape)}"
    return None


def _is_torchs(part: Any) -> bool:
    """Whether an optimizer or scheduler is one of torch's, whose memory has a known form."""
    part = part.optimizer if isinstance(part, AcceleratedOptimizer) else part
    return type(part).__module__.startswith("torch.optim")
