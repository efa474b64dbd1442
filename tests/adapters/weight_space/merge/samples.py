"""Small random adapters on disk, and their deltas in float64 by the plainest code there is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters.weight_space.factors import AdapterReader
from adapters.weight_space.merge import MergeReport, MergeSpec, merge

Q = "model.layers.0.self_attn.q_proj"
UP = "model.layers.1.mlp.up_proj"
HEAD = "lm_head"
SHAPES: Mapping[str, tuple[int, int]] = {Q: (24, 24), UP: (40, 24), HEAD: (30, 24)}
"""Module -> (out, in)"""

FULL = 24
"""A rank at which nothing of these matrices is cut off."""


def write(
    folder: Path,
    seed: int,
    *,
    shapes: Mapping[str, tuple[int, int]] = SHAPES,
    rank: int = 4,
    alpha: float = 6,
    dtype: torch.dtype = torch.float32,
    whole: bool = False,
    **config: Any,
) -> Path:
    """An adapter of random numbers; of small integers if `whole`, so that products are exact."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for module, (height, width) in shapes.items():
        for part, shape in (("A", (rank, width)), ("B", (height, rank))):
            numbers = torch.randn(shape, generator=generator)
            if whole:
                numbers = (2 * numbers).round()
            tensors[f"base_model.model.{module}.lora_{part}.weight"] = numbers.to(dtype)
    folder.mkdir(parents=True)
    fields = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(shapes),
        "base_model_name_or_path": "a/base",
    }
    (folder / "adapter_config.json").write_text(json.dumps(fields | config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def dense(folder: Path) -> dict[str, Tensor]:
    """Module -> delta [out, in] f64, of an adapter without patterns."""
    config = json.loads((folder / "adapter_config.json").read_text())
    root = math.sqrt(config["r"]) if config.get("use_rslora") else config["r"]
    return {m: d * config["lora_alpha"] / root for m, d in products(folder).items()}


def products(folder: Path) -> dict[str, Tensor]:
    """Module -> B @ A [out, in] f64, whatever the scale."""
    tensors = load_file(folder / "adapter_model.safetensors")
    found = {}
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            b = tensors[name.replace("lora_A", "lora_B")]
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            found[module] = b.double() @ a.double()
    return found


def run(
    destination: Path,
    method: str,
    folders: Sequence[Path],
    weights: Sequence[float] = (),
    **rest: Any,
) -> tuple[dict[str, Tensor], MergeReport]:
    """Merge, and read the deltas of the result, whose scale is 1."""
    weights = weights or [1.0] * len(folders)
    members = [{"adapter": f.name, "weight": w} for f, w in zip(folders, weights, strict=True)]
    spec = MergeSpec.from_json({"method": method, "adapters": members, **rest})
    report = merge(spec, [AdapterReader(folder) for folder in folders], destination)
    return products(destination), report


def distance(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Relative Frobenius distance over all modules; one that is missing in `found` is zero."""
    assert found.keys() <= expected.keys()
    apart = sum(float((found.get(m, 0) - e).square().sum()) for m, e in expected.items())
    return math.sqrt(apart / sum(float(e.square().sum()) for e in expected.values()))


def best(delta: Tensor, rank: int) -> Tensor:
    """The best approximation [out, in] of the rank."""
    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    found: Tensor = u[:, :rank] * s[:rank] @ v[:rank]
    return found
