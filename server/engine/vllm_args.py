"""vLLM's own options: as given, with our defaults where they are silent.

Works on vLLM's argument parser without importing it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapters import ModelShapes, model_of
from composer.fields import BASE
from composer.vllm.auxiliary.spec import Auxiliary
from server.auth.access_control import KEYLESS, METRICS
from server.settings import MIB, Settings
from server.startup.auxiliary_models import AuxiliaryModel

_SMALL = 10**9
"""Parameters below which a CPU computes in float32 and without compilation: with so small a model
the time to the first answer counts for more than memory."""

_REFUSED: Mapping[str, str] = {
    "lora_modules": "name adapters with --adapters",
    "speculative_config": "speculative decoding does not go with composition yet",
    "api_server_count": "start one server per replica",
    "headless": "start one server per replica",
    "grpc": "only HTTP is served",
    "shutdown_timeout": "--drain-seconds says how long requests may take to finish",
}
_UNLOGGED = ",".join(sorted(KEYLESS | {METRICS}))
"""Routes whose requests are not worth a line: orchestrators ask them every few seconds."""
_OURS = "composition brings its own"


_LOADED = 64
"""Adapters that stay in memory at most, unless --max-cpu-loras says otherwise."""
_SPARE = 8
"""Places for generations that were replaced and whose last requests still run."""
_COMMON_RANK = 16
"""Room for adapters to come, unless --max-lora-rank says otherwise; vLLM's own default."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the models and their adapters ask of the engine."""

    shapes: ModelShapes | None
    """Of the base model, where they are known."""

    ranks: Mapping[str, int]
    """Of all adapters, those of auxiliary models too, by alias."""

    publishing: bool
    """Whether adapters may be added while the server runs."""

    auxiliaries: tuple[AuxiliaryModel, ...] = ()

    @property
    def small(self) -> bool:
        """Whether the base model is so small that time counts for more than memory."""
        return self.shapes is not None and self.shapes.parameters < _SMALL

    def ranks_of(self, model: str | None) -> tuple[int, ...]:
        """The ranks of a model's adapters; None is the base."""
        return tuple(rank for alias, rank in self.ranks.items() if model_of(alias) == model)


@dataclass(frozen=True, slots=True)
class Platform:
    """What the installed vLLM can do."""

    is_cpu: bool
    lora_ranks: tuple[int, ...]
    """Values of --max-lora-rank."""


def read_flags(
    parser: argparse.ArgumentParser,
    settings: Settings,
    needs: Needs,
    platform: Platform,
) -> argparse.Namespace:
    """Parse `settings.vllm_flags` with vLLM's parser.

    Raises:
        ValueError: a flag contradicts what is served here.
        SystemExit: vLLM does not know a flag; usage and reason are on stderr.
    """
    parser.set_defaults(model=settings.model, host=settings.host, port=settings.port)
    parser.set_defaults(**_lora_defaults(needs, platform.lora_ranks))
    parser.set_defaults(disable_access_log_for_endpoints=_UNLOGGED)
    if not settings.verbose:
        parser.set_defaults(use_tqdm_on_load=False)
    if platform.is_cpu and needs.small:
        parser.set_defaults(dtype="float32", enforce_eager=True)
    args = parser.parse_args(list(settings.vllm_flags))
    _refuse(args, parser, _REFUSED)
    if platform.is_cpu and not _sizes_cache(args, parser):
        args.kv_cache_memory_bytes = _modest_cache_bytes(1024 * MIB if needs.small else 4096 * MIB)
    # An engine has one back end for grammars, that of its first such request. `auto` lets every
    # request ask for another, and those that do not get theirs end with a server error.
    grammars = args.structured_outputs_config
    if grammars.backend == "auto":
        args.structured_outputs_config = replace(grammars, backend="xgrammar")
    # vLLM answers in the first name, so that is the one the operator chose, if any.
    names = args.served_model_name or []
    args.served_model_name = list(dict.fromkeys([*names, BASE, *([] if names else [args.model])]))
    if clash := sorted(set(args.served_model_name) & set(needs.ranks)):
        raise ValueError(f"{clash} would name both the base model and an adapter; rename one.")
    return args


def set_engine_options(
    args: argparse.Namespace, parser: argparse.ArgumentParser, options: Mapping[str, Any]
) -> None:
    """Set what switches composition on. Raises `ValueError` where a flag wants it otherwise."""
    _refuse(args, parser, dict.fromkeys(options, _OURS))
    vars(args).update(options)


def _refuse(
    args: argparse.Namespace, parser: argparse.ArgumentParser, reasons: Mapping[str, str]
) -> None:
    for field, reason in reasons.items():
        if getattr(args, field) != parser.get_default(field):
            raise ValueError(f"--{field.replace('_', '-')} cannot be given here: {reason}.")


def auxiliary_options(
    settings: Settings, needs: Needs, platform: Platform
) -> tuple[Auxiliary, ...]:
    """The auxiliary models as the engine takes them."""
    default = (256 if needs.small else 4096) * MIB
    found = []
    for one in needs.auxiliaries:
        room = _lora_room(needs, one.given.name, platform.lora_ranks)
        memory = settings.auxiliary_memory_bytes or default
        found.append(Auxiliary(one.given.name, str(one.folder), memory, **room))
    return tuple(found)


def _lora_defaults(needs: Needs, ranks: Sequence[int]) -> dict[str, Any]:
    room = _lora_room(needs, None, ranks)
    return {"enable_lora": True, **room} if room else {}


def _lora_room(needs: Needs, model: str | None, ranks: Sequence[int]) -> dict[str, int]:
    """Room for a model's adapters: up to 64 of them stay loaded, up to 8 run at once."""
    own = needs.ranks_of(model)
    if not own and not needs.publishing:
        return {}
    wanted = max((*own, _COMMON_RANK if needs.publishing else 0))
    rank = min((r for r in ranks if r >= wanted), default=None)
    if rank is None:
        raise ValueError(f"an adapter has rank {wanted}, and vLLM serves ranks up to {max(ranks)}.")
    slots = 8 if needs.publishing else min(len(own), 8)
    spare = _SPARE if needs.publishing else 0
    return {
        "max_lora_rank": rank,
        "max_loras": slots,
        "max_cpu_loras": max(min(len(own), _LOADED) + spare, slots),
    }


def _sizes_cache(args: argparse.Namespace, parser: argparse.ArgumentParser) -> bool:
    """Whether the operator says how large the KV cache is to be."""
    fields = ("kv_cache_memory_bytes", "gpu_memory_utilization")
    chosen = any(getattr(args, field) != parser.get_default(field) for field in fields)
    return chosen or bool(os.environ.get("VLLM_CPU_KVCACHE_SPACE"))


def _modest_cache_bytes(most_bytes: int) -> int:
    """An eighth of the memory, within bounds; vLLM would take nearly all."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(max(memory_bytes // 8, 256 * MIB), most_bytes)
