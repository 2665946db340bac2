"""What a run's checkpoints hold: written between its steps, and gone on from in its directory."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from torch import Tensor

from mtlfast.train import checkpoint, randomness
from mtlfast.train.checkpoint import Damaged
from mtlfast.train.joint import Joint
from mtlfast.train.options import Options
from mtlfast.train.output import agreed
from mtlfast.train.report import history
from mtlfast.train.run import Run
from mtlfast.writing import brief

__all__ = ["Checkpoints"]

BEST = "best.safetensors"
# What may stand for what in a state.
KINDS: tuple[Any, ...] = (Tensor, dict, (list, tuple), (int, float))


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

    def resume(self) -> None:
        """Goes on from the newest checkpoint, the same in all processes; says if there is none.

        Raises:
            ValueError: where it is of another run, or all are damaged.
        """
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

    def save(self) -> Path:
        """Writes a checkpoint between two optimizer steps, and returns its path."""
        shared, own = self._state()
        state = shared | {"identity": self.identity, "own": gather_object([own])}
        path = checkpoint.step_path(self.folder, self.run.step)
        if self.accelerator.is_main_process:
            checkpoint.save(path, state)
            checkpoint.prune(self.folder, self.keep, self.run.step)
            history.write_history(self.output, self.run.history, self.run.renewals)
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

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns what all processes have alike by now, and what this one has for itself."""
        shared = {name: part.state_dict() for name, part in self.parts.items()}
        shared |= self.run.state_dict()
        random = randomness.state(self.accelerator.device)
        return shared, {"running": shared.pop("running"), "random": random}

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
            if not other and (odd := self._misfit(self._of_this_process(held))):
                raise ValueError(odd)
        except Exception as error:  # of what depth or kind the states of others are
            raise Damaged(path, brief(error)) from error
        if other:
            raise ValueError(f"{path} is of another run: {other}.")

    def _of_this_process(self, held: dict[str, Any]) -> dict[str, Any]:
        """Returns what a checkpoint holds for all processes, and for this one."""
        own: dict[str, Any] = held["own"][self.accelerator.process_index]
        return held | own

    def _misfit(self, came: dict[str, Any]) -> str | None:
        """Returns the first place where a state is laid out otherwise than this run's, or None."""
        shared, own = self._state()
        wanted = shared | own | self.run.layout(came)
        for name in ("optimizer", "scheduler"):
            if name in self.parts and not _is_torchs(self.parts[name]):
                wanted[name] = {}  # those of others may remember what they like
        if wanted["optimizer"]:
            wanted["optimizer"] = wanted["optimizer"] | {"state": {}}
        if "device" not in came["random"]:  # the run was on no such device: it stays as seeded
            wanted["random"].pop("device", None)
        odd = misfit(wanted, {name: came[name] for name in wanted})
        return odd or _odd_memory(self.parts["optimizer"], came["optimizer"])

    def _restore(self, path: Path, held: dict[str, Any]) -> None:
        """Puts everything back as a checkpoint has it, which ``_check`` has seen.

        Raises:
            Damaged: where a part does not take it.
        """
        came = self._of_this_process(held)
        try:
            for name, part in self.parts.items():
                part.load_state_dict(came[name])
            self.run.load_state_dict(came)
            randomness.restore(came["random"], self.accelerator.device)
        except Exception as error:  # of parts that are not ours too
            raise Damaged(path, brief(error)) from error


def difference(old: Any, new: Any, place: str = "") -> str | None:
    """Returns the first place where two nested states differ, in words, or None."""
    one, other = _inside(old), _inside(new)
    if not (one or other) or isinstance(old, dict) != isinstance(new, dict):
        return None if old == new else f"{place} was {old!r} and is {new!r}"
    found = (difference(one.get(k), other.get(k), _at(place, k)) for k in {**one, **other})
    return next(filter(None, found), None)


def misfit(wanted: Any, came: Any, place: str = "") -> str | None:
    """Returns the first place where a state is laid out otherwise than is wanted, or None.

    It must have the same keys, lengths and kinds, and tensors of the same shape and dtype. What is
    empty so far may have been filled, and a number may stand where there is none yet.
    """
    if wanted is None:
        return None if came is None or isinstance(came, int | float) else f"{place} is {came!r}"
    kind = next((kind for kind in KINDS if isinstance(wanted, kind)), type(wanted))
    if not isinstance(came, kind):
        return f"{place} is {type(came).__name__}, not {type(wanted).__name__}"
    if isinstance(wanted, Tensor):
        a, b = ((tuple(tensor.shape), tensor.dtype) for tensor in (wanted, came))
        return None if a == b else f"{place} is {b}, not {a}"
    own, other = _inside(wanted), _inside(came)
    for key in own.keys() ^ other.keys() if own else ():
        return f"{place or 'it'} has {'no' if key in own else 'also'} {key!r}"
    return next(filter(None, (misfit(own[k], other[k], _at(place, k)) for k in own)), None)


def _inside(state: Any) -> dict[Any, Any]:
    """Returns the parts of a mapping or sequence by key or number; of all else there are none."""
    if isinstance(state, list | tuple):
        return dict(enumerate(state))
    return state if isinstance(state, dict) else {}


def _at(place: str, key: Any) -> str:
    return f"{place}[{key}]" if isinstance(key, int) else f"{place}.{key}".lstrip(".")


def _odd_memory(optimizer: Any, held: dict[str, Any]) -> str | None:
    """Returns where what an optimizer remembers does not fit its parameters, or None."""
    groups = optimizer.param_groups if _is_torchs(optimizer) else []
    alike: dict[tuple[int, int], Any] = {}  # matrices may be remembered otherwise than vectors
    places = [(place, p) for place, group in enumerate(groups) for p in group["params"]]
    for number, (group, parameter) in enumerate(places):
        if number not in held["state"]:
            continue
        memory, shape = held["state"][number], parameter.shape
        place = f"optimizer.state[{number}]"
        if memory.keys() != alike.setdefault((group, len(shape)), memory.keys()):
            return f"{place} has other keys than its neighbours"
        for name, value in memory.items():
            size = value.shape if isinstance(value, Tensor) else ()
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
