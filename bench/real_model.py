"""SmolLM2 with the project's adapters, for claims on a real vocabulary and real text."""

from __future__ import annotations

from typing import Any

from bench.inprocess import InProcessEngine, Job
from bench.measure import cpu_seconds
from bench.workload import prompts
from composer.engine_plan import Row
from composer.filters import Filter
from experts import ADAPTERS
from experts.base_model import base_model

VOCABULARY = 40_000  # of random prompts


def real_engine(*names: str, dtype: str = "bfloat16", **options: Any) -> InProcessEngine:
    """Return an engine of SmolLM2 with these adapters."""
    folders = {name: ADAPTERS[name] for name in names}
    return InProcessEngine(
        base_model(),
        folders,
        dtype=dtype,
        kv_blocks=None,
        kv_cache_memory_bytes=512 << 20,
        **options,
    )


def steered(
    engine: InProcessEngine,
    count: int,
    prompt_tokens: int,
    filters: tuple[Filter, ...] = (),
    **params: Any,
) -> list[Job]:
    """Return requests for `base + 1.5*(positive - negative)`, three rows each."""
    positive, negative = engine.adapters["positive"], engine.adapters["negative"]
    rows = (Row(1.0), Row(1.5, positive), Row(-1.5, negative))
    texts = prompts(count, prompt_tokens, VOCABULARY, seed=count)
    return [Job(text, rows, filters, params=params) for text in texts]


def decoding_seconds(engine: InProcessEngine, jobs: list[Job]) -> float:
    """Return CPU seconds per step once all prompts have been read; the jobs ask for equally many
    tokens."""
    engine.forget_prefixes()
    for job in jobs:
        engine.add(job)
    while any(len(r.output_token_ids) == 0 for r in engine.scheduler.requests.values()):
        engine.step()
    steps: int = jobs[0].params["max_tokens"] - 1
    return cpu_seconds(engine.drain) / steps
