"""A thin multi-task trainer on Hugging Face Accelerate."""

from mtlfast.train.best import Best, EarlyStopping
from mtlfast.train.data import Samples, TaskDatasets
from mtlfast.train.interrupt import Interrupted
from mtlfast.train.model import MultiTaskModel
from mtlfast.train.schedule import Stage, TaskStopping
from mtlfast.train.tasks import Task
from mtlfast.train.trainer import Trainer

__all__ = [
    "Best",
    "EarlyStopping",
    "Interrupted",
    "MultiTaskModel",
    "Samples",
    "Stage",
    "Task",
    "TaskDatasets",
    "TaskStopping",
    "Trainer",
]
