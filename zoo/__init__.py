"""Small language models and LoRA adapters that the project trains itself, and their paths."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
ROOT = Path(os.environ.get("ZOO_ROOT", PROJECT / "zoo"))  # ZOO_ROOT trains into another folder

BASE: Path = ROOT / "models" / "base"
SMALL: Path = ROOT / "models" / "small"
ADAPTERS: dict[str, Path] = {
    name: ROOT / "adapters" / name
    for name in ("chat", "polite", "rude", "velan", "arithmetic", "reverse", "sort", "count")
}
SMALL_ADAPTERS: dict[str, Path] = {
    name: ROOT / "adapters" / f"small-{name}" for name in ("chat", "polite", "rude")
}
# Also of the small model: adapters that steer the base model.
PROXIES: dict[str, Path] = {
    name: ROOT / "adapters" / f"small-{name}"
    for name in (
        "school",
        "school.chat",
        "school.sort",
        "school.arithmetic",
        "school.count",
        "velan",
    )
}
VALUE: Path = (
    ROOT / "adapters" / "small-value"
)  # of the small model; its logits are values, not language
LISTS: Path = ROOT / "models" / "lists"  # answers prompts with several questions, see `zoo.lists`
LIST_ADAPTERS: dict[str, Path] = {
    name: ROOT / "list_adapters" / name
    for name in (
        *("count", "down", "reverse", "sort", "double"),
        *("repeat", "number", "drop", "ends", "join"),
    )
}
TRAINED: Path = ROOT / "trained.json"  # seconds and loss of each training
