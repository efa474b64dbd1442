"""Writes base models and adapters of a few numbers, as PEFT would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Array = np.ndarray[Any, np.dtype[Any]]
Tensors = Mapping[str, Array]

HIDDEN, LAYERS, RANK = 8, 2, 2
VOCABULARY = 5
ATTENTION = "model.layers.{}.self_attn.q_proj"


def write_base(folder: Path, hidden: int = HIDDEN, layers: int = LAYERS) -> Path:
    """A base model of query projections only."""
    folder.mkdir()
    tensors: dict[str, Array] = {
        f"{ATTENTION.format(layer)}.weight": np.zeros((hidden, hidden), np.float32)
        for layer in range(layers)
    }
    tensors["model.embed_tokens.weight"] = np.zeros((VOCABULARY, hidden), np.float32)
    tensors["model.norm.weight"] = np.zeros(hidden, np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder


def factors(
    module: str = ATTENTION, hidden: int = HIDDEN, layers: int = LAYERS, rank: int = RANK
) -> dict[str, Array]:
    """A LoRA of one module in every layer."""
    tensors = {}
    for layer in range(layers):
        name = f"base_model.model.{module.format(layer)}"
        tensors[f"{name}.lora_A.weight"] = np.ones((rank, hidden), np.float32)
        tensors[f"{name}.lora_B.weight"] = np.ones((hidden, rank), np.float32)
    return tensors


def write_adapter(folder: Path, tensors: Tensors | None = None, **config: Any) -> Path:
    """An adapter that fits `write_base`, but for what is said otherwise."""
    folder.mkdir()
    fields = {"peft_type": "LORA", "r": RANK, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(fields | config))
    save_file(dict(factors() if tensors is None else tensors), folder / "adapter_model.safetensors")
    return folder


def safetensors(header: Mapping[str, object], data: bytes) -> bytes:
    """A file with this header, true or not."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def typed(dtype: str, tensors: Mapping[str, Array]) -> bytes:
    """A file whose tensors are said to be of `dtype`, which numpy may not know."""
    header: dict[str, object] = {}
    data = b""
    for name, bits in tensors.items():
        offsets = [len(data), len(data) + bits.nbytes]
        header[name] = {"dtype": dtype, "shape": bits.shape, "data_offsets": offsets}
        data += bits.tobytes()
    return safetensors(header, data)
