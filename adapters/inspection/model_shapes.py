"""The weight matrices of a base model, read from the headers of its safetensors files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open

_FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class ModelShapes:
    """The modules with weights, and the shape [out, in] of every weight that is a plain matrix.

    Quantized weights are packed and have no such shape; only the names of their modules are known.
    `name` is a hub id or a path to compare with the lineage of adapters; None skips the comparison.
    """

    modules: frozenset[str]
    matrices: Mapping[str, tuple[int, int]]
    parameters: int
    name: str | None = None
    # Suffix of a module name -> the name; empty if several modules share the suffix.
    _ends: Mapping[str, str] = field(init=False, repr=False, compare=False)
    # Prefixes of module names.
    _parents: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ends: dict[str, str] = {}
        for module in self.modules:
            for end in _ends_of(module):
                ends[end] = "" if end in ends else module
        object.__setattr__(self, "_ends", ends)
        object.__setattr__(self, "_parents", frozenset(_parents_of(self.modules)))

    @classmethod
    def read(cls, directory: Path, name: str | None = None) -> ModelShapes | None:
        """Read the shapes of the model in `directory`; return None if it has no safetensors files.

        Raises:
            OSError, safetensors.SafetensorError: a file cannot be read.
        """
        modules: set[str] = set()
        matrices: dict[str, tuple[int, int]] = {}
        parameters = 0
        for file in _files(directory):
            with safe_open(file, framework="np") as tensors:
                for tensor_name in tensors.keys():  # noqa: SIM118 - not a dict
                    tensor = tensors.get_slice(tensor_name)
                    shape = tuple(tensor.get_shape())
                    module, _, kind = tensor_name.rpartition(".")
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
        return cls(frozenset(modules), matrices, parameters, name)

    @property
    def vocabulary(self) -> int | None:
        """Return the rows of the input embeddings; None if they have another name or are packed."""
        return next((s[0] for m, s in self.matrices.items() if m.endswith("embed_tokens")), None)

    def find(self, module: str) -> str | None:
        """Return the model's name of an adapter's module; None if the model has no such module.

        Checkpoints differ in their leading components (`model.`, `language_model.model.`), so names
        match if everything from the layer list on agrees. A prefix of module names, like the
        experts of one layer, matches too.
        """
        if module in self.modules or module in self._parents:
            return module
        words = module.split(".")
        for start in range(1, len(words)):
            if words[start].isdigit():
                break
            if name := self._ends.get(".".join(words[start:])):
                return name
        return None


def _files(directory: Path) -> list[Path]:
    """Return the files of the model: those of its index, or else all.

    Some folders also hold a second copy (`consolidated.safetensors`) or an adapter.
    """
    try:
        names = set(json.loads((directory / _INDEX).read_bytes())["weight_map"].values())
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(f"{directory / _INDEX} cannot be read: {error!r}") from error
    else:
        return sorted(directory / str(name) for name in names)
    if (single := directory / "model.safetensors").is_file():
        return [single]
    return sorted(directory.glob("*.safetensors"))


def _ends_of(module: str) -> Iterator[str]:
    words = module.split(".")
    return (".".join(words[start:]) for start in range(len(words)))


def _parents_of(modules: Iterable[str]) -> Iterator[str]:
    for module in modules:
        while module := module.rpartition(".")[0]:
            yield module
