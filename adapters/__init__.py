"""Which LoRA adapters exist: read, checked and named by the digest of their content.

Nothing here knows the engine or HTTP, and nothing imports torch.
"""

from adapters.catalogue import Catalogue, Generation
from adapters.errors import AdapterError
from adapters.inspection import inspect
from adapters.shapes import ModelShapes

__all__ = ["AdapterError", "Catalogue", "Generation", "ModelShapes", "inspect"]
