"""What the front end lets pass by the workers' figures, the scheduler runs, and nothing else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from vllm.v1.engine import FinishReason

from composer.capacity import EngineCapacity, ModelCapacity, RowNeed
from composer.engine_plan import EnginePlan, Row
from composer.errors import CompositionError
from tests.engine.harness import Job, WatchedEngine

BLOCK_BYTES = 3 * 2 * 2 * 64 * 4 * 32  # of the small model: layers, keys and values, ...


@pytest.fixture(scope="module")
def engine(zoo_base: Path, zoo_small: Path) -> WatchedEngine:
    return WatchedEngine(
        zoo_base,
        {},
        kv_blocks=21,
        watermark=0.2,
        max_num_seqs=6,
        max_model_len=192,
        auxiliaries={"small": (zoo_small, {})},
        auxiliary_kv_bytes=9 * BLOCK_BYTES,
    )


def as_the_front_end_sees_it(engine: WatchedEngine) -> EngineCapacity:
    [figures] = engine.core.collective_rpc("kv_capacities")
    models = {name: ModelCapacity(192, 0, blocks, sizes) for name, blocks, sizes in figures}
    return EngineCapacity(6, models)


def test_both_processes_count_the_same(engine: WatchedEngine) -> None:
    seen = as_the_front_end_sees_it(engine)
    assert seen == engine.scheduler.limits.capacity
    assert seen.models[None].kv_blocks == 21 - 1 - 4
    assert seen.models[None].kv_blocks == (
        engine.scheduler.kv_cache_manager.block_pool.num_gpu_blocks
        - 1
        - engine.scheduler.kv_cache_manager._base.watermark_blocks
    )


def test_what_passes_is_answered_and_what_does_not_is_not(engine: WatchedEngine) -> None:
    rng, seen = random.Random(5), as_the_front_end_sees_it(engine)
    refused = shortened = 0
    for _ in range(60):
        prompt = tuple(rng.randrange(20, 500) for _ in range(rng.choice([1, 60, 130, 185])))
        rows = [Row(1.0)]
        for _ in range(rng.randrange(0, 6)):
            own = tuple(rng.randrange(20, 500) for _ in range(rng.choice([31, 64, 100, 180])))
            rows.append(Row(0.1, None, own, rng.choice([None, None, "small"])))
        plan = EnginePlan.led(rows)
        asked = rng.choice([1, 5, 40])
        needs = [RowNeed(row.model, len(row.prompt_token_ids or prompt), ()) for row in plan.rows]
        job = Job(prompt, plan.rows, params={"max_tokens": min(asked, 192 - len(prompt))})
        output = engine.run([job])[0].outputs[0]
        try:
            seen.check(needs, 1)
        except CompositionError:
            assert output.finish_reason == str(FinishReason.ERROR)
            refused += 1
            continue
        longest = seen.longest_answer(needs, asked)
        assert len(output.token_ids) == longest
        shortened += longest < asked
    assert refused > 10
    assert shortened > 3
    engine.assert_nothing_left()
