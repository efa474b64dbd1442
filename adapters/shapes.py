"""The weight matrices of a base model, read from the headers of its safetensors files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

_FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})


@dataclass(frozen=True, slots=True)
class ModelShapes:
    """Modules with weights, and the shape [out, in] of those whose weight is a plain matrix.

    Quantized weights are packed and have no such shape; their modules are known by name only.
    """

    modules: frozenset[str]
    matrices: Mapping[str, tuple[int, int]]
    parameters: int

    @classmethod
    def read(cls, directory: Path) -> ModelShapes | None:
        """The shapes of the model in `directory`; None where it has no safetensors files."""
        modules: set[str] = set()
        matrices: dict[str, tuple[int, int]] = {}
        parameters = 0
        for file in sorted(directory.glob("*.safetensors")):
            with safe_open(file, framework="np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    tensor = tensors.get_slice(name)
                    shape = tuple(tensor.get_shape())
                    module, _, kind = name.rpartition(".")
                    modules.add(module)
                    parameters += math.prod(shape)
                    if kind == "weight" and len(shape) == 2 and tensor.get_dtype() in _FLOATS:
                        matrices[module] = (shape[0], shape[1])
        if not modules:
            return None
        # Tied output embeddings are stored once, under the name of the input embeddings.
        embedding = next((m for m in matrices if m.endswith("embed_tokens")), None)
        if embedding is not None and not any(m.endswith("lm_head") for m in modules):
            modules.add("lm_head")
            matrices["lm_head"] = matrices[embedding]
        return cls(frozenset(modules), matrices, parameters)

    def find(self, module: str) -> str | None:
        """The model's own name of an adapter's module; None where the model has no such module.

        Checkpoints differ in their leading components (`model.`, `language_model.model.`), so the
        name counts as found where everything from the layer list on agrees. A name that only leads
        to other modules, like the experts of one layer, counts as found too.
        """
        if module in self.modules or self._leads(module):
            return module
        parts = module.split(".")
        for start in range(1, len(parts)):
            if parts[start].isdigit():
                break
            tail = "." + ".".join(parts[start:])
            found = [name for name in self.modules if f".{name}".endswith(tail)]
            if len(found) == 1:
                return found[0]
        return None

    def _leads(self, module: str) -> bool:
        return any(name.startswith(module + ".") for name in self.modules)
