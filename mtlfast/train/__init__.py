"""A thin multi-task trainer on Hugging Face Accelerate."""

from mtlfast.data import Images, Samples, Table, TaskDatasets, read_folder, read_list, read_table
from mtlfast.train.interrupt import Interrupted
from mtlfast.train.model import MultiTaskModel
from mtlfast.train.rules import Best, EarlyStopping, quantity
from mtlfast.train.schedule import Stage, TaskStopping
from mtlfast.train.tasks import Task
from mtlfast.train.trainer import Trainer

__all__ = [
    "Best",
    "EarlyStopping",
    "Images",
    "Interrupted",
    "MultiTaskModel",
    "Samples",
    "Stage",
    "Table",
    "Task",
    "TaskDatasets",
    "TaskStopping",
    "Trainer",
    "quantity",
    "read_folder",
    "read_list",
    "read_table",
]
