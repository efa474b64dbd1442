"""Auxiliary models: another size, own adapters, own KV cache, in the same engine and batch.

The invariants are those of all gangs and are checked by `WatchedEngine` in every step.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.core.sched.output import SchedulerOutput

from bench.agreement import send_under_pressure
from bench.scoring import scored_job, worst_error
from bench.streams import without_streams
from composer.engine_plan import EnginePlan, Row
from composer.filters import Filter, FilterKind
from composer.reference.oracle import Oracle, Weights
from tests.engine.harness import InProcessEngine, Job, WatchedEngine, count_mismatches

MakeJob = Callable[[random.Random, WatchedEngine], Job]
PROMPT = tuple(range(40, 77))
OTHER = tuple(range(100, 160))
BLOCK_BYTES = 3 * 2 * 2 * 64 * 4 * 32  # layers, keys and values, heads, head size, float32, tokens
TIGHT = {
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
    "max_loras": 3,
    "max_model_len": 256,
    "auxiliary_kv_bytes": 11 * BLOCK_BYTES,
}


@pytest.fixture(scope="module")
def auxiliaries(zoo_small: Path, zoo_small_adapters: dict[str, Path]) -> dict[str, Weights]:
    return {"small": (zoo_small, zoo_small_adapters)}


@pytest.fixture(scope="module")
def oracle(
    zoo_base: Path, zoo_adapters: dict[str, Path], auxiliaries: dict[str, Weights]
) -> Oracle:
    return Oracle(zoo_base, zoo_adapters, auxiliaries)


@pytest.fixture(scope="module")
def roomy(
    zoo_base: Path, zoo_adapters: dict[str, Path], auxiliaries: dict[str, Weights]
) -> WatchedEngine:
    return WatchedEngine(zoo_base, zoo_adapters, auxiliaries=auxiliaries)


@pytest.fixture(scope="module")
def tight(
    zoo_base: Path, zoo_adapters: dict[str, Path], auxiliaries: dict[str, Weights]
) -> WatchedEngine:
    """Neither KV cache holds what runs."""
    return WatchedEngine(zoo_base, zoo_adapters, auxiliaries=auxiliaries, kv_blocks=17, **TIGHT)


@pytest.fixture(scope="module")
def tiny(
    zoo_base: Path, zoo_adapters: dict[str, Path], auxiliaries: dict[str, Weights]
) -> WatchedEngine:
    """Only the auxiliary model's KV cache is short."""
    return WatchedEngine(zoo_base, zoo_adapters, auxiliaries=auxiliaries, **TIGHT)


@pytest.fixture(scope="module")
def asynchronous(
    zoo_base: Path, zoo_adapters: dict[str, Path], auxiliaries: dict[str, Weights]
) -> Iterator[WatchedEngine]:
    with without_streams():
        yield WatchedEngine(
            zoo_base,
            zoo_adapters,
            asynchronous=True,
            auxiliaries=auxiliaries,
            kv_blocks=17,
            **TIGHT,
        )


def small(weight: float, adapter: str | None = None, *, of: WatchedEngine) -> Row:
    own = of.auxiliary_adapters["small"]
    return Row(weight, own[adapter] if adapter else None, None, "small")


def proxy(engine: WatchedEngine, **params: object) -> Job:
    """base + 0.8*(small:polite - small): proxy-tuning as published."""
    rows = (Row(1.0), small(0.8, "polite", of=engine), small(-0.8, of=engine))
    return Job(PROMPT, rows, params=dict(params))


def shapes(engine: WatchedEngine) -> dict[str, Job]:
    chat = engine.adapters["chat"]
    polite, rude = (small(w, n, of=engine) for w, n in ((0.8, "polite"), (-0.8, "rude")))
    alone = small(1.0, of=engine)
    return {
        "proxy tuning": proxy(engine),
        "adapter leads": Job(PROMPT, (Row(1.0, chat), polite, rude)),
        "base in the middle": Job(PROMPT, (Row(0.7), polite, Row(0.3, chat), rude)),
        "own prompt": Job(PROMPT, (Row(1.0), Row(0.5, None, OTHER, "small"))),
        "one token": Job(PROMPT, (Row(1.0), Row(-0.5, None, PROMPT[-1:], "small"))),
        "all of one token": Job(PROMPT[:1], (Row(1.0), alone)),
        "small alone": Job(PROMPT, EnginePlan.led([alone]).rows),
        "its filter": Job(PROMPT, (Row(1.0), alone), (Filter(FilterKind.PLAUSIBILITY, 1, 0.1),)),
        "plain": Job(PROMPT),
        "plain adapter": Job(PROMPT, adapter=chat),
    }


def test_greedy_answers_in_one_batch(roomy: WatchedEngine, oracle: Oracle) -> None:
    jobs = list(shapes(roomy).values()) * 2
    assert count_mismatches(oracle, jobs, roomy.answers(jobs)) == (0, 0)
    roomy.assert_nothing_left()


def test_the_auxiliary_model_may_compute_alone(tight: WatchedEngine, oracle: Oracle) -> None:
    """Its row has the longer prompt, for which the base model waits."""
    job = Job(PROMPT, (Row(1.0), Row(0.5, None, OTHER, "small")), params={"max_tokens": 3})
    before = tight.watch.steps
    assert count_mismatches(oracle, [job], tight.answers([job])) == (0, 0)
    steps = tight.watch.scheduled[before:]
    assert any([name.endswith("#1") for name in step] == [True] for step in steps)
    tight.assert_nothing_left()


@pytest.mark.parametrize("which", ["tight", "tiny", "asynchronous"])
def test_greedy_answers_alone(which: str, request: pytest.FixtureRequest, oracle: Oracle) -> None:
    engine: WatchedEngine = request.getfixturevalue(which)
    for name, job in shapes(engine).items():
        assert count_mismatches(oracle, [job], engine.answers([job])) == (0, 0), name
    engine.assert_nothing_left()


@pytest.mark.parametrize("which", ["tight", "tiny", "asynchronous"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_random_requests_under_pressure(
    which: str, seed: int, request: pytest.FixtureRequest, oracle: Oracle, make_job: MakeJob
) -> None:
    engine: WatchedEngine = request.getfixturevalue(which)
    preempted = engine.watch.preempted_gangs
    found = send_under_pressure(engine, seed, 60, make_job)
    assert found.lost == 0
    jobs, answers = zip(*((one.job, one.answer) for one in found.answered), strict=True)
    wrong, _ = count_mismatches(oracle, jobs, answers)
    assert wrong == 0
    assert found.leftovers == ()
    assert found.aborted > 0
    if which != "tiny":  # see the next test
        assert engine.watch.preempted_gangs > preempted


def test_a_full_auxiliary_cache_concerns_only_those_who_use_it(
    tiny: WatchedEngine, oracle: Oracle
) -> None:
    """Groups preempt each other there, and wait for it; the base model's requests do not."""
    rows = (Row(1.0), small(0.8, "polite", of=tiny))
    jobs = [Job(PROMPT, rows, params={"max_tokens": tokens}) for tokens in (150, 140, 130)]
    gangs = [tiny.add(job) for job in jobs]
    preempted = tiny.watch.preempted_gangs
    while tiny.watch.preempted_gangs == preempted:
        assert not any(out.finished for out in tiny.step())
    plain = tiny.add(Job(PROMPT[:4], params={"max_tokens": 30}))
    [row] = [name for name in tiny.scheduler.requests if name.split("-")[0] == plain]
    start = len(tiny.watch.scheduled)
    done = tiny.drain()
    assert tiny.watch.preempted_gangs > preempted + 1, "none was preempted while it ran"
    assert all(row in step for step in tiny.watch.scheduled[start : start + 30])
    answers = [list(done[name].outputs[0].token_ids) for name in gangs]
    assert count_mismatches(oracle, jobs, answers) == (0, 0)
    tiny.assert_nothing_left()


def test_a_gang_refused_for_the_auxiliary_cache_holds_up_no_gang_of_the_base(
    tiny: WatchedEngine, oracle: Oracle
) -> None:
    """Each of the first two takes 6 of 10 blocks. The last wants more tokens, but none there."""

    def of_small(first: int) -> Job:
        others = (Row(0.1, None, tuple(range(k, k + 37)), "small") for k in range(first, first + 3))
        return Job(PROMPT, (Row(1.0), *others), params={"max_tokens": 20})

    own = tuple(range(200, 300))
    jobs = [of_small(20), of_small(120), Job(own, (Row(1.0), Row(0.1, None, own[::-1])))]
    names = [tiny.add(jobs[0])]
    tiny.step()
    names += [tiny.add(job) for job in jobs[1:]]
    tiny.step()
    assert [gang.admitted for gang in tiny.scheduler.gangs.by_leader.values()] == [
        True,
        False,
        True,
    ]
    done = tiny.drain()
    answers = [list(done[name].outputs[0].token_ids) for name in names]
    assert count_mismatches(oracle, jobs, answers)[0] == 0
    tiny.assert_nothing_left()


def test_the_longest_answer_is_bounded_by_the_auxiliary_cache(tiny: WatchedEngine) -> None:
    """Ten blocks: two rows of 160 tokens, of which the last needs no place."""
    [output] = tiny.run([proxy(tiny, max_tokens=200)])
    assert len(output.outputs[0].token_ids) == 5 * 32 - len(PROMPT) + 1
    assert output.outputs[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((Row(1.0), Row(1.0, None, None, "tall")), "model 'tall' is not served here"),
        ((Row(1.0), Row(1.0, None, PROMPT * 6, "small"), Row(1.0, None, PROMPT * 6, "small")), ""),
    ],
)
def test_a_gang_that_can_never_run_fails_alone(
    tiny: WatchedEngine, rows: tuple[Row, ...], message: str
) -> None:
    good = tiny.add(Job(PROMPT, params={"max_tokens": 4}))
    bad = tiny.add(Job(PROMPT, rows))
    done = tiny.drain()
    assert len(done[good].outputs[0].token_ids) == 4
    assert done[bad].outputs[0].finish_reason == "error"
    tiny.assert_nothing_left()


def test_adapter_slots_are_counted_per_model(tight: WatchedEngine, oracle: Oracle) -> None:
    """Three slots of the base and two of the small model, whose adapters have the same ids: all
    five at once, and a sixth adapter waits."""
    base = [tight.adapters[name] for name in ("polite", "rude", "chat")]
    own = [tight.auxiliary_adapters["small"][name] for name in ("polite", "rude", "chat")]
    params = {"max_tokens": 12}
    rows = (*(Row(0.3, one) for one in base), *(Row(0.2, one, None, "small") for one in own[:2]))
    jobs = [Job(PROMPT[:8], rows, params=params)]
    jobs.append(Job(PROMPT[:8], (Row(1.0), Row(0.5, own[2], None, "small")), params=params))
    jobs.append(Job(PROMPT[:8], adapter=base[0], params=params))
    names = []
    for job in jobs:
        names.append(tight.add(job))
        tight.step()
    start = len(tight.watch.scheduled)
    done = tight.drain()
    ended = {name: list(done[name].outputs[0].token_ids) for name in names}
    assert count_mismatches(oracle, jobs, list(ended.values())) == (0, 0)
    waiting = [step for step in tight.watch.scheduled[start:] if len(step) == 6]
    assert waiting, "the request without an adapter of the small model did not pass the waiting one"
    tight.assert_nothing_left()


def test_a_step_without_auxiliary_rows_does_not_run_the_model(roomy: WatchedEngine) -> None:
    [one] = roomy.worker.auxiliaries.runners
    calls: list[int] = []
    execute = one.runner.execute_model

    def watched(part: SchedulerOutput) -> object:
        calls.append(len(part.num_scheduled_tokens))
        return execute(part)

    one.runner.execute_model = watched
    try:
        roomy.answers([Job(PROMPT)])
        assert calls == []
        roomy.answers([proxy(roomy, max_tokens=5), Job(PROMPT, params={"max_tokens": 30})])
    finally:
        one.runner.execute_model = execute
    assert calls == [2] * 5 + [0]  # the last: its rows have ended


@pytest.mark.parametrize("which", ["roomy", "asynchronous"])
def test_a_weight_of_zero_changes_nothing(which: str, request: pytest.FixtureRequest) -> None:
    """Sampling, logprobs and grammars see the base's logits bit for bit."""
    engine: WatchedEngine = request.getfixturevalue(which)
    params = {"temperature": 1.2, "seed": 8, "logprobs": 3, "repetition_penalty": 1.2}
    choice = {
        "structured_outputs": StructuredOutputsParams(choice=["yes", "no"]),
        "ignore_eos": False,
    }
    for options in (params, choice):
        [plain] = engine.run([Job(PROMPT, params=options)])
        [twin] = engine.run(
            [Job(PROMPT, (Row(1.0), small(0.0, "rude", of=engine)), params=options)]
        )
        assert twin.outputs[0].token_ids == plain.outputs[0].token_ids
        assert twin.outputs[0].logprobs == plain.outputs[0].logprobs


@pytest.mark.parametrize("which", ["tight", "asynchronous"])
def test_resetting_the_prefix_cache_with_requests_in_flight(
    which: str, request: pytest.FixtureRequest, oracle: Oracle
) -> None:
    """vLLM preempts everything at once here, outside of a step."""
    engine: WatchedEngine = request.getfixturevalue(which)
    jobs = [proxy(engine, max_tokens=12), Job(PROMPT, params={"max_tokens": 12})]
    names = [engine.add(job) for job in jobs]
    for _ in range(6):
        engine.step()
    engine.scheduler.reset_prefix_cache(reset_running_requests=True)
    done = engine.drain()
    answers = [list(done[name].outputs[0].token_ids) for name in names]
    assert count_mismatches(oracle, jobs, answers) == (0, 0)
    engine.assert_nothing_left()


def resized(model: Path, folder: Path, vocabulary: int) -> Path:
    """A copy of a model with fewer or, with random vectors, more tokens."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": vocabulary}))
    weights = load_file(folder / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    more = torch.randn(max(vocabulary - len(embedding), 0), embedding.shape[1]).to(embedding.dtype)
    weights["model.embed_tokens.weight"] = torch.cat([embedding, more])[:vocabulary].contiguous()
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.engine
def test_two_models_with_other_vocabularies(
    zoo_base: Path, zoo_small: Path, zoo_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Tokens beyond the base's are cut off; those that a model does not have are never chosen."""
    torch.manual_seed(0)
    auxiliaries: dict[str, Weights] = {
        "short": (resized(zoo_small, tmp_path / "short", 300), {}),
        "long": (resized(zoo_small, tmp_path / "long", 1100), {}),
    }
    engine = WatchedEngine(zoo_base, zoo_adapters, auxiliaries=auxiliaries)
    oracle = Oracle(zoo_base, zoo_adapters, auxiliaries)
    rows = {name: Row(0.7, None, None, name) for name in auxiliaries}
    jobs = [
        Job(PROMPT, (Row(1.0), rows["short"])),
        Job(PROMPT, (Row(1.0), Row(-0.7, None, None, "short"))),
        Job(PROMPT, (Row(1.0), rows["long"]), (Filter(FilterKind.TOP_P, 1, 0.9),)),
        Job(PROMPT, (Row(1.0), *rows.values()), (Filter(FilterKind.PLAUSIBILITY, 1, 0.1),)),
    ]
    answers = engine.answers(jobs)
    assert count_mismatches(oracle, jobs, answers) == (0, 0)
    for k in (0, 1, 3):
        assert max(answers[k]) < 300
    assert max(answers[2]) >= 300, "no token that a shorter vocabulary would have lacked"
    engine.assert_nothing_left()


def test_a_cache_that_is_too_small_is_refused_with_the_arithmetic(
    zoo_base: Path, zoo_adapters: dict[str, Path], auxiliaries: dict[str, Weights]
) -> None:
    message = r"bytes / \(3 layers \* 32768 bytes for 32 tokens\) = 8 blocks, and .*9"
    with pytest.raises(ValueError, match=message):
        InProcessEngine(
            zoo_base,
            zoo_adapters,
            auxiliaries=auxiliaries,
            max_model_len=256,
            auxiliary_kv_bytes=9 * BLOCK_BYTES - 1,
        )


def test_caches_that_do_not_fit_the_memory_are_refused_with_the_arithmetic(
    zoo_base: Path, zoo_adapters: dict[str, Path], auxiliaries: dict[str, Weights]
) -> None:
    with pytest.raises(ValueError, match=r"268435456 bytes \(base model\) \+ 1\d+ \(small\) = "):
        InProcessEngine(zoo_base, zoo_adapters, auxiliaries=auxiliaries, auxiliary_kv_bytes=1 << 50)


def test_scores_with_auxiliary_members_are_those_of_the_oracle(
    tight: WatchedEngine, oracle: Oracle
) -> None:
    outcome = send_under_pressure(tight, 3, 40, scored_job)
    assert outcome.lost == 0
    assert outcome.leftovers == ()
    with_auxiliary = [a for a in outcome.answered if any(row.model for row in a.job.rows or ())]
    assert len(with_auxiliary) > 5
    for answered in outcome.answered:
        assert worst_error(oracle, answered.job, answered.scores) <= 1e-4, answered.job
