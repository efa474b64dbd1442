"""What a probe of a bad adapter leaves in the KV cache reaches nobody."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from vllm.v1.core.sched.interface import PauseState

from composer.engine_plan import LoadedAdapter, Row
from composer.reference.oracle import Oracle
from composer.vllm.execute.adapter_probes import PREFIX, clean
from tests.engine.harness import Job, WatchedEngine, count_mismatches

PROMPT = tuple(range(50, 85))


POISONED = 9100


@pytest.fixture
def poisoned(zoo_adapters: dict[str, Path]) -> LoadedAdapter:
    return LoadedAdapter("poisoned", POISONED, str(zoo_adapters["polite"]))


def load(engine: WatchedEngine, adapter: LoadedAdapter) -> None:
    """Load it, and make infinite what it computes; neither inspection nor the engine would let
    such a file pass, but for a model in half precision finite numbers can do the same."""
    engine.load([adapter])
    model = engine.worker._loaders[None]._loads[adapter.id].future.result()
    for factors in model.loras.values():
        factors.lora_b.fill_(float("inf"))


def is_clean(engine: WatchedEngine) -> bool:
    return all(bool(cache.isfinite().all()) for cache in engine.runner.kv_caches)


def probe(engine: WatchedEngine, job: Job) -> None:
    prompt = {"prompt_token_ids": list(job.prompt)}
    name = f"{PREFIX}1-poisoned"
    engine.engine.add_request(name, prompt, job.sampling_params(), lora_request=job.lora())
    engine.drain()


@pytest.mark.parametrize("composed", [False, True])
@pytest.mark.parametrize("kind", ["tight", "asynchronous"])
def test_a_bad_probe_leaves_nothing(
    request: pytest.FixtureRequest,
    oracle: Oracle,
    poisoned: LoadedAdapter,
    kind: str,
    composed: bool,
) -> None:
    engine: WatchedEngine = request.getfixturevalue(kind)
    rows = (Row(1.0, poisoned), Row(-1.0, None)) if composed else None
    job = Job(PROMPT, adapter=None if composed else poisoned, rows=rows, params={"max_tokens": 1})
    load(engine, poisoned)
    engine.run([job])
    engine.run([Job(PROMPT[:5], params={"max_tokens": 1})])
    assert not is_clean(engine), "an ordinary request leaves its blocks as they are"
    clean(engine.runner)
    engine.forget_prefixes()
    probe(engine, job)
    engine.retire(poisoned)
    engine.run([Job(PROMPT[:5], params={"max_tokens": 1})])
    assert is_clean(engine)
    engine.forget_prefixes()
    jobs = [
        Job(tuple(range(30 + n, 60 + n)), adapter=engine.adapters[name], params={"max_tokens": 8})
        for n in range(8)
        for name in ("polite", "chat")
    ]
    wrong, _ = count_mismatches(oracle, jobs, engine.answers(jobs))
    assert wrong == 0
    engine.assert_nothing_left()


def test_a_bad_probe_that_is_preempted_leaves_nothing(
    tight: WatchedEngine, poisoned: LoadedAdapter
) -> None:
    """Its prompt takes two steps, and it is preempted between them; the next step may give its
    blocks to others, before it runs again."""
    tight.forget_prefixes()
    load(tight, poisoned)
    tight.add(Job(PROMPT[:5], params={"max_tokens": 8}))
    tight.step()
    job = Job(tuple(range(50, 150)), adapter=poisoned, params={"max_tokens": 1})
    name = f"{PREFIX}2-poisoned"
    prompt = {"prompt_token_ids": list(job.prompt)}
    tight.engine.add_request(name, prompt, job.sampling_params(), lora_request=job.lora())
    tight.step()
    scheduler = tight.scheduler
    row = scheduler.running.pop()
    assert row.request_id.startswith(PREFIX)
    assert 0 < row.num_computed_tokens < row.num_tokens
    assert not is_clean(tight)
    scheduler._preempt_request(row, time.monotonic())
    scheduler.set_pause_state(PauseState.PAUSED_NEW)  # it does not run in the next step
    tight.step()
    assert is_clean(tight)
    scheduler.set_pause_state(PauseState.UNPAUSED)
    assert name in tight.drain()
    tight.retire(poisoned)
    tight.run([Job(PROMPT[:5], params={"max_tokens": 1})])
    assert is_clean(tight)
    tight.forget_prefixes()
    tight.assert_nothing_left()


def test_a_good_probe_costs_the_cache_nothing(tight: WatchedEngine) -> None:
    before = [cache.clone() for cache in tight.runner.kv_caches]
    tight.run([Job(PROMPT, params={"max_tokens": 1})])
    probe(tight, Job(PROMPT, adapter=tight.adapters["polite"], params={"max_tokens": 1}))
    tight.run([Job(PROMPT[:5], params={"max_tokens": 1})])
    assert is_clean(tight)
    assert any(
        not torch.equal(old, new) for old, new in zip(before, tight.runner.kv_caches, strict=True)
    )
