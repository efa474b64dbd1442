"""Adapters of the zoo that change layers beside those of its own: the input or the output."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import zoo


def with_factors(folder: Path, module: str, a: str, b: str, **shapes: tuple[int, int]) -> Path:
    """A copy of an adapter with factors for one more module."""
    shutil.copytree(zoo.ADAPTERS["chat"], folder)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["target_modules"].append(module.rpartition(".")[2])
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = load_file(folder / "adapter_model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in (a, b):
        tensors[f"base_model.model.{module}.{name}"] = (
            torch.randn(shapes[name.split(".")[0]], generator=generator) * 0.1
        )
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def with_head(folder: Path) -> Path:
    """An adapter that changes the output layer too."""
    shapes = {"lora_A": (16, 256), "lora_B": (1024, 16)}
    return with_factors(folder, "lm_head", "lora_A.weight", "lora_B.weight", **shapes)
