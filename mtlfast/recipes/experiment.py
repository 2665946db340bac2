"""What a recipe builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # help texts read the names of recipes where Accelerate is not installed
    from mtlfast.train import Trainer

__all__ = ["Experiment"]


@dataclass(frozen=True)
class Experiment:
    """A trainer and its data, ready to run.

    Attributes:
        trainer: the trainer, output directory and seed set.
        train: what is fitted.
        weight_data: what an adaptive weighting observes.
        validation: what is scored after each epoch, for curves and choices.
        test: what is scored once, at the end.
        batch_size: samples per optimizer step.
        measure: returns the system's own figures after training, by name, on every process; None:
            the means over tasks of their metrics on the test data.
    """

    trainer: Trainer
    train: Any
    weight_data: Any
    validation: Any
    test: Any
    batch_size: int
    measure: Callable[[], Mapping[str, float | None]] | None = None

    def describe(self) -> str:
        """Returns the size of each part of the data, in words."""
        parts = ("train", "weight_data", "validation", "test")
        given = [(name.replace("_", " "), getattr(self, name)) for name in parts]
        sizes = [f"{len(data)} {name}" for name, data in given if data is not None]
        return f"Samples: {', '.join(sizes)}."
