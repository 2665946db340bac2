"""A thin multi-task trainer on Hugging Face Accelerate."""

from mtlfast.train.data import Samples
from mtlfast.train.model import MultiTaskModel
from mtlfast.train.schedule import Stage
from mtlfast.train.tasks import Task
from mtlfast.train.trainer import Trainer

__all__ = ["MultiTaskModel", "Samples", "Stage", "Task", "Trainer"]
