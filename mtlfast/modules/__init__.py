"""Loss modules: each holds keyword arguments and calls the function of the same family."""

from mtlfast.modules import embeddings, pointwise
from mtlfast.modules.embeddings import *
from mtlfast.modules.pointwise import *

# Losses are listed where they are defined, and only there.
__all__: list[str] = []
__all__ += embeddings.__all__
__all__ += pointwise.__all__
