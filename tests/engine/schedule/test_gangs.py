"""Lock-step, admission, preemption and endings, under pressure.

`WatchedEngine` checks after every step that gangs advance as a whole, hold the same tokens, and
hold nothing while they wait; here is the work that makes those checks mean something.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from vllm.v1.engine import FinishReason

from composer.engine_plan import Row
from composer.reference.oracle import Oracle
from tests.engine.harness import Job, WatchedEngine, count_mismatches

MakeJob = Callable[[random.Random, WatchedEngine], Job]
PROMPT = tuple(range(40, 77))


def gang(
    engine: WatchedEngine, *names: str, prompt: tuple[int, ...] = PROMPT, **params: object
) -> Job:
    rows = (Row(1.0), *(Row(0.5, engine.adapters[name]) for name in names))
    return Job(prompt, rows, params=dict(params))


def rows_of(engine: WatchedEngine, name: str) -> list[str]:
    """Request ids of a request's rows. vLLM adds a random suffix to the name it was given."""
    [leader] = [i for i in engine.scheduler.requests if i.split("-")[0] == name and "#" not in i]
    found = engine.scheduler.gangs.by_row.get(leader)
    return [row.request_id for row in found.rows] if found else [leader]


@pytest.mark.parametrize("which", ["tight", "asynchronous"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_random_requests_under_pressure(
    which: str, seed: int, request: pytest.FixtureRequest, oracle: Oracle, make_job: MakeJob
) -> None:
    engine: WatchedEngine = request.getfixturevalue(which)
    rng = random.Random(seed)
    jobs = [make_job(rng, engine) for _ in range(50)]
    preempted = engine.watch.preempted_gangs
    chunked = engine.watch.chunked_rows
    names: list[str] = []
    aborted: set[str] = set()
    done = {}
    waiting = list(jobs)
    while waiting or engine.engine.has_unfinished_requests():
        for _ in range(rng.choice([0, 0, 1, 3])):
            if waiting:
                names.append(engine.add(waiting.pop(0)))
        if names and rng.random() < 0.05:
            aborted.add(name := rng.choice(names))
            engine.abort(name)
        done.update({out.request_id: out for out in engine.step() if out.finished})
    finished = [(job, done[name]) for job, name in zip(jobs, names, strict=True) if name in done]
    finished = [(job, out) for job, out in finished if out.request_id not in aborted]
    assert len(finished) == len(jobs) - len(aborted)
    answers = [list(out.outputs[0].token_ids) for _, out in finished]
    for job, answer in zip((job for job, _ in finished), answers, strict=True):
        assert len(answer) == job.params["max_tokens"]
    wrong, _ = count_mismatches(oracle, [job for job, _ in finished], answers)
    assert wrong == 0
    engine.assert_nothing_left()
    assert engine.watch.preempted_gangs > preempted, "no gang was preempted: not under pressure"
    assert engine.watch.chunked_rows > chunked


@pytest.mark.parametrize("which", ["tight", "asynchronous"])
def test_rows_of_one_token_under_pressure(
    which: str, request: pytest.FixtureRequest, oracle: Oracle
) -> None:
    """Such rows have nothing to prefill and join when their gang is released, which may be the
    very step in which something must be preempted."""
    engine: WatchedEngine = request.getfixturevalue(which)
    rng = random.Random(3)
    adapters = list(engine.adapters.values())[:3]
    jobs = []
    for _ in range(30):
        long = tuple(rng.randrange(10, 500) for _ in range(rng.choice([60, 64, 90])))
        one = (rng.randrange(10, 500),)
        prompt, other = rng.choice([(one, long), (long, one), (one, one)])
        rows = (Row(1.5, rng.choice(adapters)), Row(-0.5, rng.choice(adapters), other))
        jobs.append(Job(prompt, rows, params={"max_tokens": rng.choice([8, 33, 70])}))
        jobs.append(Job(long, params={"max_tokens": rng.choice([8, 33, 70])}))
    preempted = engine.watch.preempted_gangs
    wrong, _ = count_mismatches(oracle, jobs, engine.answers(jobs))
    assert wrong == 0
    assert engine.watch.preempted_gangs > preempted
    engine.assert_nothing_left()


def test_a_gang_that_fits_starts_and_answers_in_its_first_step(roomy: WatchedEngine) -> None:
    name = roomy.add(gang(roomy, "polite", "rude", max_tokens=1))
    [output] = roomy.step()
    assert output.finished
    assert output.request_id == name
    roomy.assert_nothing_left()


def test_a_waiting_gang_slows_no_running_request(tight: WatchedEngine) -> None:
    """8 rows at most: 6 plain requests run, a gang of 3 waits, nobody misses a step."""
    plain = [tight.add(Job(PROMPT[:4], params={"max_tokens": 12})) for _ in range(6)]
    tight.step()
    tight.add(gang(tight, "polite", "rude", max_tokens=3))
    ids = [row for name in plain for row in rows_of(tight, name)]
    for _ in range(11):
        tight.step()
        assert all(tight.watch.scheduled[-1].get(i) == 1 for i in ids)
        assert len(tight.watch.scheduled[-1]) == 6
    tight.drain()
    tight.assert_nothing_left()


def test_a_gang_at_the_barrier_slows_no_running_request(tight: WatchedEngine) -> None:
    """One row prefills 200 tokens in chunks, the others wait for it, a plain request decodes."""
    plain = tight.add(Job(PROMPT[:4], params={"max_tokens": 20}))
    tight.step()
    long = tuple(range(20, 220))
    tight.add(Job(PROMPT, (Row(1.5), Row(-0.5, None, long)), params={"max_tokens": 4}))
    [row] = rows_of(tight, plain)
    for _ in range(19):
        tight.step()
        assert tight.watch.scheduled[-1].get(row) == 1
    tight.drain()
    tight.assert_nothing_left()


@pytest.mark.parametrize("stop", ["token", "length", "context", "abort", "string"])
@pytest.mark.parametrize("which", ["roomy", "asynchronous"])
def test_every_ending_ends_all_rows(which: str, stop: str, request: pytest.FixtureRequest) -> None:
    engine: WatchedEngine = request.getfixturevalue(which)
    rows = gang(engine, "polite", "rude").rows
    prompt = PROMPT
    [full] = engine.answers([Job(prompt, rows, params={"max_tokens": 12})])
    params: dict[str, object] = {"max_tokens": 12}
    expected = full
    if stop == "token":
        token = full[5]
        params["stop_token_ids"] = [token]
        expected = full[: full.index(token) + 1]
    elif stop == "string":
        tokenizer = engine.engine.get_tokenizer()
        word = tokenizer.decode(full[4:6])
        params["stop"] = [word]
    elif stop == "context":
        longest = engine.scheduler.max_model_len
        other = tuple(20 + i % 400 for i in range(longest - 4))
        rows = (Row(1.0), Row(0.5, None, other))
        expected = []
    name = engine.add(Job(prompt, rows, params=params))
    if stop == "abort":
        engine.step()
        engine.step()
        engine.abort(name)
        assert not engine.drain()
    else:
        output = engine.drain()[name].outputs[0]
        if stop == "context":
            assert len(output.token_ids) == 4
            assert output.finish_reason == "length"
        elif stop == "string":
            assert output.stop_reason == params["stop"][0]  # type: ignore[index]
            assert len(output.token_ids) <= 7
        else:
            assert list(output.token_ids) == expected
    engine.assert_nothing_left()


@pytest.mark.parametrize("reason", ["rows", "adapters", "prompt"])
def test_a_gang_that_can_never_fit_fails_alone(tight: WatchedEngine, reason: str) -> None:
    """The front end refuses these with 400; if one comes through, only it fails."""
    if reason == "rows":
        bad = Job(PROMPT, tuple(Row(0.1) for _ in range(9)))
    elif reason == "adapters":
        bad = gang(tight, "polite", "rude", "chat", "velan")
    else:
        bad = Job(PROMPT, tuple(Row(0.2, None, PROMPT * 6 if k else None) for k in range(5)))
    good = Job(PROMPT, params={"max_tokens": 4})
    [alone] = tight.answers([good])
    first, second = tight.add(good), tight.add(bad)
    done = tight.drain()
    assert list(done[first].outputs[0].token_ids) == alone
    assert done[second].outputs[0].finish_reason == str(FinishReason.ERROR)
    tight.assert_nothing_left()


def test_a_leader_under_another_adapter_than_its_plan_fails(roomy: WatchedEngine) -> None:
    """Else its answer would silently be that of another composition."""

    class Wrong(Job):
        def lora(self) -> None:
            return None

    polite = roomy.adapters["polite"]
    name = roomy.add(Wrong(PROMPT, (Row(1.0, polite), Row(-0.5))))
    assert roomy.drain()[name].outputs[0].finish_reason == str(FinishReason.ERROR)
    roomy.assert_nothing_left()


def test_resetting_the_prefix_cache_with_requests_in_flight(
    tight: WatchedEngine, oracle: Oracle
) -> None:
    """vLLM preempts everything at once here, outside of a step."""
    jobs = [gang(tight, "polite", "rude", max_tokens=12), Job(PROMPT, params={"max_tokens": 12})]
    names = [tight.add(job) for job in jobs]
    for _ in range(6):
        tight.step()
    tight.scheduler.reset_prefix_cache(reset_running_requests=True)
    done = tight.drain()
    wrong, _ = count_mismatches(
        oracle, jobs, [list(done[name].outputs[0].token_ids) for name in names]
    )
    assert wrong == 0
    tight.assert_nothing_left()
