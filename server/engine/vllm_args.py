"""vLLM's options: the operator's values, and our defaults for the others.

Uses vLLM's argument parser without importing vLLM.
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
from server.engine.processor import Processor
from server.server_options import MIB
from server.settings import Settings
from server.startup.auxiliary_models import AuxiliaryModel

_SMALL = 10**9
"""Parameters below which a CPU computes without compilation, and in float32 if it would emulate
bfloat16: for such small models the time to the first answer matters more than memory."""

_TINY = 50_000_000
"""Parameters below which a CPU computes in float32: it takes no longer, and ties are rarer."""

_REFUSED: Mapping[str, str] = {
    "lora_modules": "name adapters with --adapters",
    "speculative_config": "speculative decoding does not go with composition yet",
    "kv_transfer_config": "KV cache connectors do not go with composition yet",
    "enable_batch_sharded_sampling": "it puts the rows of one composed request on several workers",
    "prefill_schedule_interval": "it holds prompts back, and composed rows must start together",
    "api_server_count": "start one server per replica",
    "headless": "start one server per replica",
    "grpc": "only HTTP is served",
    "shutdown_timeout": "--drain-seconds says how long requests may take to finish",
}
_UNLOGGED = ",".join(sorted(KEYLESS | {METRICS}))
"""Routes that are not logged, because orchestrators request them every few seconds."""

_ADAPTER_SLOTS = 8
"""Adapters that run at once; `--max-loras` overrides it."""

_ADAPTERS_IN_MEMORY = 64
"""Adapters that stay in memory; `--max-cpu-loras` overrides it."""

_SPARE_ADAPTERS = 8
"""Additional adapters in memory: replaced generations whose last requests still run."""

_PUBLISHED_RANK = 16
"""Largest rank of adapters that may be published later; `--max-lora-rank` overrides it."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the models and adapters of a server require of the engine.

    shapes: of the base model, if they are known.
    ranks: rank of each adapter, by alias, including those of auxiliary models.
    publishing: whether adapters may be added while the server runs.
    auxiliaries: the auxiliary models.
    """

    shapes: ModelShapes | None
    ranks: Mapping[str, int]
    publishing: bool
    auxiliaries: tuple[AuxiliaryModel, ...] = ()

    @property
    def small(self) -> bool:
        """Whether the base model is so small that time matters more than memory."""
        return self.shapes is not None and self.shapes.parameters < _SMALL

    @property
    def tiny(self) -> bool:
        """Whether the base model is for tests."""
        return is_tiny(self.shapes)

    def ranks_of(self, model: str | None) -> tuple[int, ...]:
        """Return the ranks of a model's adapters; None is the base model."""
        return tuple(rank for alias, rank in self.ranks.items() if model_of(alias) == model)


@dataclass(frozen=True, slots=True)
class Platform:
    """What the installed vLLM supports.

    processor: what vLLM computes on, if that is a CPU.
    lora_ranks: the valid values of --max-lora-rank.
    compiles: whether a CPU can compile models, for which torch needs a C++ compiler.
    """

    processor: Processor | None
    lora_ranks: tuple[int, ...]
    compiles: bool = True

    @property
    def is_cpu(self) -> bool:
        return self.processor is not None


@dataclass(frozen=True, slots=True)
class Dtype:
    """Our default of `--dtype` on a CPU; `name` None leaves it to vLLM."""

    name: str | None
    reason: str


def is_tiny(shapes: ModelShapes | None) -> bool:
    """Whether a model is so small that one thread in one process serves it fastest."""
    return shapes is not None and shapes.parameters < _TINY


def cpu_dtype(processor: Processor, needs: Needs) -> Dtype:
    """Return the fastest dtype, as far as memory for it can be taken for granted."""
    if needs.tiny:
        return Dtype("float32", "a tiny model")
    if processor.bfloat16 is not None:
        return Dtype("bfloat16", processor.bfloat16)
    emulated = "no bfloat16 instructions"
    return Dtype("float32" if needs.small else None, emulated)


def read_flags(
    parser: argparse.ArgumentParser,
    settings: Settings,
    needs: Needs,
    platform: Platform,
) -> argparse.Namespace:
    """Parse `settings.vllm_flags` with vLLM's parser.

    Raises:
        ValueError: a flag contradicts this server.
        SystemExit: vLLM does not know a flag; the reason is on stderr.
    """
    parser.set_defaults(model=settings.model, host=settings.host, port=settings.port)
    parser.set_defaults(**_lora_defaults(needs, platform.lora_ranks))
    parser.set_defaults(disable_access_log_for_endpoints=_UNLOGGED)
    if not settings.verbose:
        parser.set_defaults(use_tqdm_on_load=False)
    if platform.processor is not None:
        if (dtype := cpu_dtype(platform.processor, needs).name) is not None:
            parser.set_defaults(dtype=dtype)
        if needs.small or not platform.compiles:
            parser.set_defaults(enforce_eager=True)
    args = parser.parse_args(list(settings.vllm_flags))
    _refuse(args, parser, _REFUSED)
    if platform.is_cpu and not _sizes_cache(args, parser):
        args.kv_cache_memory_bytes = _modest_cache_bytes(1024 * MIB if needs.small else 4096 * MIB)
    # An engine has one back end for grammars, that of the first request with a grammar. With
    # `auto`, a later request that needs another back end would end with a server error.
    grammars = args.structured_outputs_config
    if grammars.backend == "auto":
        args.structured_outputs_config = replace(grammars, backend="xgrammar")
    # vLLM answers in the first name, so the operator's names come first.
    names = args.served_model_name or []
    args.served_model_name = list(dict.fromkeys([*names, BASE, *([] if names else [args.model])]))
    if clash := sorted(set(args.served_model_name) & set(needs.ranks)):
        raise ValueError(f"{clash} would name both the base model and an adapter; rename one.")
    return args


def set_engine_options(
    args: argparse.Namespace, parser: argparse.ArgumentParser, options: Mapping[str, Any]
) -> None:
    """Set the options that enable composition. Raise `ValueError` if a flag sets one of them."""
    _refuse(args, parser, dict.fromkeys(options, "compositions need their own value"))
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
    """Return the auxiliary models as the engine takes them."""
    default = (256 if needs.small else 4096) * MIB
    memory = settings.auxiliary_memory_bytes or default
    options = []
    for model in needs.auxiliaries:
        limits = _lora_limits(needs, model.option.name, platform.lora_ranks)
        options.append(Auxiliary(model.option.name, str(model.folder), memory, **limits))
    return tuple(options)


def _lora_defaults(needs: Needs, ranks: Sequence[int]) -> dict[str, Any]:
    limits = _lora_limits(needs, None, ranks)
    return {"enable_lora": True, **limits} if limits else {}


def _lora_limits(needs: Needs, model: str | None, ranks: Sequence[int]) -> dict[str, int]:
    """Return vLLM's limits for the adapters of a model; empty if it can have none.

    Raises:
        ValueError: vLLM does not support the rank of an adapter.
    """
    adapter_ranks = needs.ranks_of(model)
    if not adapter_ranks and not needs.publishing:
        return {}
    needed = max((*adapter_ranks, _PUBLISHED_RANK if needs.publishing else 0))
    rank = min((r for r in ranks if r >= needed), default=None)
    if rank is None:
        raise ValueError(f"an adapter has rank {needed}, and vLLM serves ranks up to {max(ranks)}.")
    adapters = len(adapter_ranks)
    slots = _ADAPTER_SLOTS if needs.publishing else min(adapters, _ADAPTER_SLOTS)
    spare = _SPARE_ADAPTERS if needs.publishing else 0
    return {
        "max_lora_rank": rank,
        "max_loras": slots,
        "max_cpu_loras": max(min(adapters, _ADAPTERS_IN_MEMORY) + spare, slots),
    }


def _sizes_cache(args: argparse.Namespace, parser: argparse.ArgumentParser) -> bool:
    """Return whether the operator has set the size of the KV cache."""
    fields = ("kv_cache_memory_bytes", "gpu_memory_utilization")
    is_set = any(getattr(args, field) != parser.get_default(field) for field in fields)
    return is_set or bool(os.environ.get("VLLM_CPU_KVCACHE_SPACE"))


def _modest_cache_bytes(max_bytes: int) -> int:
    """Return an eighth of the memory, from 256 MiB to `max_bytes`; vLLM would take nearly all."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(max(memory_bytes // 8, 256 * MIB), max_bytes)
