"""Reading an adapter's files and refusing what the engine could not serve as it was trained."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import NoReturn

import numpy as np
from safetensors import SafetensorError, deserialize

from adapters.catalogue import ALIAS, BASE, Generation
from adapters.errors import AdapterError
from adapters.shapes import ModelShapes

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_KEY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<part>[AB])\.weight")
_RETRAIN = "Train a plain LoRA adapter, or merge this one into a model of its own"
_UNSUPPORTED: Mapping[str, str] = {
    "use_dora": "it is a DoRA adapter",
    "lora_bias": "its LoRA layers have a bias",
    "alora_invocation_tokens": "it is an activated LoRA adapter (aLoRA)",
    "layer_replication": "it replicates layers of the base model",
    "use_bdlora": "it is a block-diagonal LoRA adapter",
    "use_qalora": "it is a QALoRA adapter",
    "trainable_token_indices": "it retrains single token embeddings",
}
"""Fields of PEFT's LoraConfig that change what is computed, in ways that vLLM does not follow."""

# Initializations that only set the adapter's own weights; others also change those of the base.
_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})


@dataclass(slots=True)
class _Pair:
    """The shapes of one module's two factors: A [rank, in] and B [out, rank]."""

    a: tuple[int, ...] = ()
    b: tuple[int, ...] = ()


def inspect(path: Path | str, alias: str, base: ModelShapes | None = None) -> Generation:
    """Read the adapter in the folder `path` and check that it fits the base model, if given.

    Raises:
        AdapterError: the adapter cannot be served; the message says why and what to do.
    """
    return _Inspection(Path(path), alias).run(base)


class _Inspection:
    """One adapter under inspection; a method per question, in the order they are asked."""

    def __init__(self, path: Path, alias: str) -> None:
        self.path = path
        self.alias = alias

    def fail(self, problem: str, remedy: str) -> NoReturn:
        raise AdapterError(self.alias, self.path, problem, remedy)

    def run(self, base: ModelShapes | None) -> Generation:
        self.check_alias()
        config_bytes, weight_bytes = self.read_files()
        config = self.parse_config(config_bytes)
        self.check_method(config)
        pairs = self.read_pairs(weight_bytes)
        rank = self.check_ranks(pairs)
        if base is not None:
            self.check_fit(pairs, base, transposed=bool(config.get("fan_in_fan_out")))
        digest = hashlib.sha256()
        for part in (config_bytes, weight_bytes):
            digest.update(len(part).to_bytes(8, "big") + part)
        return Generation(self.alias, digest.hexdigest(), self.path.resolve(), rank)

    def check_alias(self) -> None:
        if self.alias == BASE:
            self.fail(f"the name '{BASE}' is that of the base model", "Choose another name")
        if not ALIAS.fullmatch(self.alias):
            self.fail(
                f"the name does not match {ALIAS.pattern}",
                "Choose a name like 'polite' or 'sql-v2'",
            )

    def read_files(self) -> tuple[bytes, bytes]:
        if not self.path.is_dir():
            self.fail("there is no such folder", f"Give the folder that holds {CONFIG}")
        for name in (CONFIG, WEIGHTS):
            if not (self.path / name).is_file():
                pickles = sorted(p.name for p in self.path.glob("adapter_model.*"))
                if name == WEIGHTS and pickles:
                    self.fail(
                        f"its weights are in {pickles[0]}, a format that can run code when loaded",
                        "Save it again with PEFT's save_pretrained(safe_serialization=True)",
                    )
                self.fail(f"{name} is missing", "Give a folder written by PEFT's save_pretrained")
        return (self.path / CONFIG).read_bytes(), (self.path / WEIGHTS).read_bytes()

    def parse_config(self, data: bytes) -> dict[str, object]:
        try:
            config = json.loads(data)
        except ValueError as error:
            self.fail(f"{CONFIG} is not JSON: {error}", "Save the adapter again")
        if not isinstance(config, dict):
            self.fail(f"{CONFIG} is not a JSON object", "Save the adapter again")
        return config

    def check_method(self, config: Mapping[str, object]) -> None:
        kind = config.get("peft_type")
        if kind != "LORA":
            self.fail(f"its peft_type is {kind!r}, not 'LORA'", _RETRAIN)
        if modules := config.get("modules_to_save"):
            self.fail(f"it replaces whole modules (modules_to_save: {modules})", _RETRAIN)
        if (bias := config.get("bias", "none")) != "none":
            self.fail(f"it trains biases (bias: {bias!r})", _RETRAIN)
        for name, problem in _UNSUPPORTED.items():
            if config.get(name):
                self.fail(f"{problem} ({name})", _RETRAIN)
        init = config.get("init_lora_weights", True)
        if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
            self.fail(
                f"its initialization {init!r} changed the weights of the base model",
                "Convert it with PEFT's path_initial_model_for_weight_conversion",
            )
        rank = config.get("r")
        if not isinstance(rank, int) or rank < 1:
            self.fail(f"its rank r is {rank!r}", "Give a trained adapter with a rank of at least 1")

    def read_pairs(self, data: bytes) -> dict[str, _Pair]:
        """The factors by module name; every value is looked at once."""
        try:
            tensors = deserialize(data)  # type: ignore[no-untyped-call]  # written in Rust
        except SafetensorError as error:
            self.fail(f"{WEIGHTS} cannot be read: {error}", "Copy or save the adapter again")
        pairs: dict[str, _Pair] = {}
        for name, tensor in sorted(tensors, key=itemgetter(0)):
            match = _KEY.fullmatch(name)
            if match is None:
                self.fail(f"{WEIGHTS} holds {name}, which is no factor of a LoRA layer", _RETRAIN)
            if not _finite(tensor["dtype"], tensor["data"]):
                self.fail(f"{name} holds NaN or infinity", "Train it again with a smaller step")
            pair = pairs.setdefault(match["module"], _Pair())
            shape = tuple(tensor["shape"])
            if match["part"] == "A":
                pair.a = shape
            else:
                pair.b = shape
        if not pairs:
            self.fail(f"{WEIGHTS} holds no tensors", "Give a trained adapter")
        return pairs

    def check_ranks(self, pairs: Mapping[str, _Pair]) -> int:
        """The largest rank of any module."""
        for module, pair in sorted(pairs.items()):
            if len(pair.a) != 2 or len(pair.b) != 2:
                self.fail(
                    f"{module} has factors of the shapes {list(pair.a)} and {list(pair.b)}, "
                    "not two matrices",
                    _RETRAIN,
                )
            if pair.a[0] != pair.b[1] or pair.a[0] < 1:
                self.fail(
                    f"the factors of {module} have the ranks {pair.a[0]} and {pair.b[1]}",
                    "Give an adapter whose factors fit each other",
                )
        return max(pair.a[0] for pair in pairs.values())

    def check_fit(self, pairs: Mapping[str, _Pair], base: ModelShapes, *, transposed: bool) -> None:
        remedy = "Serve it with the model that it was trained on"
        for module, pair in sorted(pairs.items()):
            name = base.find(module.removesuffix(".base_layer"))
            if name is None:
                self.fail(f"the base model has no module {module}", remedy)
            expected = base.matrices.get(name)
            if expected is None:
                continue
            given = (pair.a[1], pair.b[0]) if transposed else (pair.b[0], pair.a[1])
            if given != expected:
                self.fail(
                    f"it changes {module} with the shape {list(given)}, "
                    f"but the base model's has {list(expected)}",
                    remedy,
                )


def _finite(dtype: str, data: bytes) -> bool:
    """Whether every number is finite: the exponent bits are not all ones."""
    match dtype:
        case "F64":
            return bool(np.isfinite(np.frombuffer(data, np.float64)).all())
        case "F32":
            return bool(np.isfinite(np.frombuffer(data, np.float32)).all())
        case "F16":
            return bool(np.isfinite(np.frombuffer(data, np.float16)).all())
        case "BF16":  # numpy has no such type; the exponent is bits 7 to 14
            bits = np.frombuffer(data, np.uint16)
            return not bool((bits & 0x7F80 == 0x7F80).any())
        case _:  # integers and 8-bit floats, whose range the engine checks
            return True
