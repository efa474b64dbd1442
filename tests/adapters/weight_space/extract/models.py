"""Small whole models on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Q = "model.layers.0.self_attn.q_proj"
UP = "model.layers.1.mlp.up_proj"
NORM = "model.norm.weight"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head"

LINEAR: Mapping[str, tuple[int, int]] = {HEAD: (12, 24), Q: (24, 24), UP: (40, 24)}
"""Module -> (out, in)"""


def base_tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {f"{m}.weight": torch.randn(s, generator=generator) for m, s in LINEAR.items()}
    tensors[EMBEDDING] = torch.randn(12, 24, generator=generator)
    tensors[NORM] = torch.ones(24)
    tensors[f"{Q}.bias"] = torch.zeros(24)
    tensors["model.rotary.inv_freq"] = torch.ones(4)
    tensors["model.steps"] = torch.tensor(7)  # has no dimensions
    return tensors


def changed(tensors: Mapping[str, Tensor], rank: int = 5, seed: int = 1) -> dict[str, Tensor]:
    """With a change of `rank` in each linear weight."""
    generator = torch.Generator().manual_seed(seed)
    found = dict(tensors)
    for module, (height, width) in LINEAR.items():
        b = torch.randn(height, rank, generator=generator)
        a = torch.randn(rank, width, generator=generator)
        name = f"{module}.weight"
        found[name] = tensors[name] + 0.02 * (b * torch.logspace(0, -1, rank)) @ a
    return found


def write_model(
    folder: Path, tensors: Mapping[str, Tensor], shards: int = 1, **config: Any
) -> Path:
    """One file, or several with an index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors")
        return folder
    places: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[number::shards])
        save_file(part, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def deltas(base: Path, tuned: Path) -> dict[str, Tensor]:
    """Module -> change [out, in] f64 of each matrix but the embedding, of models of one file."""
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tuned))
    return {
        name.removesuffix(".weight"): after[name].double() - tensor.double()
        for name, tensor in before.items()
        if tensor.ndim == 2 and name != EMBEDDING
    }
