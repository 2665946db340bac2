"""mtlfast: fused loss kernels for multi-task learning, and a thin trainer.

The losses are functions in `mtlfast.functional` and modules here. `mtlfast.weighting` weighs tasks,
`mtlfast.distributed` gathers a batch that is spread over processes. `mtlfast.train` is the trainer,
and `mtlfast.recipes` holds whole systems; both are imported by name, as they need more packages.
"""

from mtlfast import distributed, functional, modules, weighting
from mtlfast.margin import MarginUpdater
from mtlfast.modules.embeddings import *
from mtlfast.modules.pointwise import *
from mtlfast.ops.backends import available_backends, info

__version__ = "0.1.0"

__all__ = ["MarginUpdater", "available_backends", "distributed", "functional", "info", "weighting"]
__all__ += modules.__all__
