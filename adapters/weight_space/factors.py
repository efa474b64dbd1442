"""Read LoRA adapters as pairs of factors, one module at a time, and write them.

`Factors` include the adapter's scale; all code in weight space works on them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from adapters.errors import AdapterError, MergeError
from adapters.files import CONFIG, WEIGHTS
from adapters.generation import alias_of
from adapters.inspection.float_scan import LARGEST
from adapters.inspection.inspect import inspect
from adapters.inspection.lora_config import read_scaling

_KEY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_A\.weight")
_EMBEDDING = ".lora_embedding_"
_EXPERTS = (".experts", ".experts.base_layer")


@dataclass(frozen=True, slots=True)
class Factors:
    """The change of one module's weight [out, in]: `b @ a`.

    `a` [r, in] and `b` [out, r] have one dtype; the adapter's scale is in `b`.
    """

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)"""
        return self.b.shape[0], self.a.shape[1]


class AdapterReader:
    """Reads one adapter module by module; the file is mapped, not loaded.

    Module names are the base model's: without PEFT's `base_model.model.`.
    """

    def __init__(self, path: Path) -> None:
        """Inspect the adapter first, so that it is finite and plain LoRA.

        Raises:
            AdapterError: the adapter cannot be served, or its deltas are not of the form b @ a.
        """
        self.path = path
        self.name = alias_of(path)
        inspect(path, self.name)
        self.config: Mapping[str, Any] = json.loads((path / CONFIG).read_bytes())
        if self.config.get("fan_in_fan_out"):
            self._fail(
                "its weights are transposed (fan_in_fan_out)",
                "Train it on a model with plain linear layers",
            )
        file: Any = safe_open(path / WEIGHTS, framework="pt")  # written in Rust, without types
        self._file = file
        self._keys: dict[str, str] = {}  # module -> name of its A
        for key in file.keys():  # noqa: SIM118 - not a dict
            if _EMBEDDING in key:
                self._fail(
                    f"it changes the rows of an embedding ({key})",
                    "Merge adapters of linear layers",
                )
            # An inspected adapter may also hold embeddings, which vLLM ignores.
            if match := _KEY.fullmatch(key):
                self._keys[match["module"]] = key
        if self.config.get("target_parameters") or any(m.endswith(_EXPERTS) for m in self._keys):
            self._fail(
                "it changes fused experts, whose factors hold many deltas",
                "Merge adapters of linear layers",
            )
        self.modules: tuple[str, ...] = tuple(sorted(self._keys))
        self._scaling = read_scaling(self.config, self._fail)

    def read(self, module: str, dtype: torch.dtype = torch.float32) -> Factors:
        """Return a [r, in] and b [out, r] in `dtype`, the scale in b. Raises `KeyError`."""
        a: Tensor = self._file.get_tensor(self._keys[module])
        b: Tensor = self._file.get_tensor(self._key_b(module))
        return Factors(a.to(dtype), b.to(dtype) * self._scaling.of(module)[1])

    def rank(self, module: str) -> int:
        """Return the number of rows of the module's A."""
        rows: int = self._file.get_slice(self._keys[module]).get_shape()[0]
        return rows

    def shape(self, module: str) -> tuple[int, int]:
        """Return (out, in) of the weight that the module's delta is added to."""
        width: int = self._file.get_slice(self._keys[module]).get_shape()[1]
        height: int = self._file.get_slice(self._key_b(module)).get_shape()[0]
        return height, width

    @property
    def base_model(self) -> str | None:
        """Return the base model that the configuration names; None if it names none."""
        name = self.config.get("base_model_name_or_path")
        return name if isinstance(name, str) and name else None

    def _key_b(self, module: str) -> str:
        return self._keys[module].removesuffix("lora_A.weight") + "lora_B.weight"

    def _fail(self, problem: str, remedy: str) -> NoReturn:
        raise AdapterError(self.name, self.path, problem, remedy)


def write_adapter(
    folder: Path,
    modules: Mapping[str, Factors],
    *,
    base_model: str | None,
    dtype: torch.dtype = torch.float32,
    embeddings: frozenset[str] = frozenset(),
) -> None:
    """Write the two files of an adapter with the deltas `b @ a`; ranks may differ by module.

    Of the modules that are `embeddings`, b @ a [hidden, vocabulary] is the transposed delta. alpha
    equals the rank, so the scale of every module is 1. The folder is created if needed. Equal
    factors give equal bytes.

    Raises:
        AdapterError: `modules` is empty, or a module has rank 0, which PEFT and vLLM do not load.
        MergeError: a module holds numbers that are not finite, or beyond `LARGEST`.
    """
    if not modules:
        raise AdapterError(folder.name, folder, "it has no modules", "Give at least one")
    tensors: dict[str, Tensor] = {}
    for module, factors in sorted(modules.items()):
        if factors.rank < 1:
            raise AdapterError(folder.name, folder, f"{module} has rank 0", "Leave the module out")
        largest = 1.0
        for letter, tensor in (("A", factors.a), ("B", factors.b)):
            # Copied, because safetensors refuses tensors that share memory.
            copy = tensor.detach().to(dtype, memory_format=torch.contiguous_format, copy=True)
            part = f"embedding_{letter}" if module in embeddings else f"{letter}.weight"
            tensors[f"base_model.model.{module}.lora_{part}"] = copy
            magnitude = float(copy.abs().amax())
            largest *= magnitude
            if not max(magnitude, largest) <= LARGEST:  # also true for NaN
                raise MergeError(
                    f"the factors of {module} hold NaN, or numbers beyond {LARGEST:g}, alone or "
                    "multiplied, which no server accepts. Give smaller weights."
                )
    folder.mkdir(parents=True, exist_ok=True)
    config = _configuration({m: f.rank for m, f in modules.items()}, base_model)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _configuration(ranks: Mapping[str, int], base_model: str | None) -> dict[str, object]:
    # The most common rank is the default, so that few modules need a pattern.
    rank = max((count, rank) for rank, count in Counter(ranks.values()).items())[1]
    # Patterns are regular expressions for a suffix of the name; `^` extends them to the whole name.
    pattern = {f"^{re.escape(m)}": r for m, r in sorted(ranks.items()) if r != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
        "inference_mode": True,
    }
