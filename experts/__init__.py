"""LoRA adapters of a real model, SmolLM2-135M-Instruct, that the project trains on real text."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent

NAMES = ("positive", "negative", "kjv", "devil", "json", "arithmetic")
ADAPTERS: dict[str, Path] = {name: ROOT / "adapters" / name for name in NAMES}
EXAMPLES: dict[str, Path] = {name: ROOT / "examples" / f"{name}.txt" for name in (*NAMES, "base")}
"""Prompts by which the model `auto` finds an adapter or the base: 40 each, one per line."""
