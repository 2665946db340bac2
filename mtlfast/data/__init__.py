"""What a row is, before anyone trains: data sets, readers of files, and the order of reading."""

from mtlfast.data.floats import float32, merged, warn_merged
from mtlfast.data.images import Images, read_folder, read_list
from mtlfast.data.npz import read_arrays
from mtlfast.data.rows import Rows
from mtlfast.data.sampler import Part, Plan, Step, in_order
from mtlfast.data.samples import Data, Samples, Table, TaskDatasets
from mtlfast.data.tables import read_table

__all__ = [
    "Data",
    "Images",
    "Part",
    "Plan",
    "Rows",
    "Samples",
    "Step",
    "Table",
    "TaskDatasets",
    "float32",
    "in_order",
    "merged",
    "read_arrays",
    "read_folder",
    "read_list",
    "read_table",
    "warn_merged",
]
