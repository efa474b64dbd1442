"""Auxiliary models: other models with the same token ids, in the base model's engine.

Each is an ordinary vLLM model with its own weights, LoRA slots and KV cache. Scheduler and workers,
maybe in different processes, read the list from vLLM's `additional_config`. This module does not
import vLLM, so that a server knows the list before it loads vLLM; see `config` for vLLM's side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

CONFIG_KEY = "composer_auxiliary"
"""Key of the list of auxiliary models in `additional_config`, which must be JSON."""


@dataclass(frozen=True, slots=True)
class Auxiliary:
    """An auxiliary model and its share of the engine."""

    name: str
    path: str
    kv_memory_bytes: int  # per worker, as vLLM's kv_cache_memory_bytes
    max_loras: int = 0  # slots; 0: without adapters
    max_lora_rank: int = 16
    max_cpu_loras: int | None = None  # None: as many as slots


def to_additional_config(auxiliaries: Sequence[Auxiliary]) -> dict[str, Any]:
    """Return the models as vLLM's `additional_config` carries them; empty if there are none."""
    return {CONFIG_KEY: [asdict(auxiliary) for auxiliary in auxiliaries]} if auxiliaries else {}


def from_additional_config(config: Mapping[str, Any]) -> tuple[Auxiliary, ...]:
    """Return the auxiliary models of an engine.

    Raises:
        ValueError: two models have the same name.
    """
    auxiliaries = tuple(Auxiliary(**values) for values in config.get(CONFIG_KEY, ()))
    names = [auxiliary.name for auxiliary in auxiliaries]
    if len(set(names)) < len(names):
        raise ValueError(f"auxiliary models need different names, but these are {names}")
    return auxiliaries
