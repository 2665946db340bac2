"""Loss functions: drop-in for torch.nn.functional, with missing labels, weights and embeddings."""

import torch.fx

from mtlfast.functional import combine, inbatch, margins, pointwise, regression, rows
from mtlfast.functional.combine import *
from mtlfast.functional.inbatch import *
from mtlfast.functional.margins import *
from mtlfast.functional.pointwise import *
from mtlfast.functional.regression import *
from mtlfast.functional.rows import *
from mtlfast.functional.typed import TaskLosses
from mtlfast.ops.catalogue import LOSSES as LOSSES

# Losses are listed where they are defined, and only there.
__all__: list[str] = []
__all__ += combine.__all__
__all__ += inbatch.__all__
__all__ += margins.__all__
__all__ += pointwise.__all__
__all__ += regression.__all__
__all__ += rows.__all__
for _name in __all__:
    torch.fx.wrap(_name)  # recorded as one call, as torch's own losses are

__all__ += ["TaskLosses"]
