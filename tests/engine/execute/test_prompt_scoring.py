"""Prompt logprobs of composed requests are those of the composition: any kind, any load."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.agreement import count_mismatches, send_under_pressure
from bench.inprocess import prompt_scores
from bench.scoring import oracle_log_probs, oracle_scores, scored_job, worst_error
from bench.workload import random_job
from composer.engine_plan import MixtureParameters, Row, Scoring
from composer.filters import Filter, FilterKind
from composer.reference.oracle import Oracle
from tests.engine.harness import Job, WatchedEngine

MOST = 1e-4  # nats
ROUTED = MixtureParameters(fixed=0.0, posterior=1.0, forgetting=0.9)


def mixed_traffic(rng: random.Random, engine: WatchedEngine) -> Job:
    """Half of the requests score a text, the others do not."""
    return scored_job(rng, engine) if rng.random() < 0.5 else random_job(rng, engine)


@pytest.mark.parametrize("engine", ["roomy", "tight", "asynchronous"])
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_scores_are_those_of_the_oracle(
    engine: str, seed: int, oracle: Oracle, request: pytest.FixtureRequest
) -> None:
    watched: WatchedEngine = request.getfixturevalue(engine)
    outcome = send_under_pressure(watched, seed, 40, mixed_traffic)
    assert outcome.lost == 0
    assert outcome.leftovers == ()
    scored = [a for a in outcome.answered if a.scores]
    assert len(scored) > 5
    for answered in scored:
        error = worst_error(oracle, answered.job, answered.scores)
        assert error <= MOST, (error, answered.job)
    wrong, _ = count_mismatches(
        oracle, [a.job for a in outcome.answered], [a.answer for a in outcome.answered]
    )
    assert wrong == 0


@pytest.mark.parametrize("engine", ["tight", "asynchronous"])
@pytest.mark.parametrize("mixture", [None, ROUTED])
def test_a_prompt_that_is_preempted_is_scored_again(
    engine: str,
    mixture: MixtureParameters | None,
    oracle: Oracle,
    request: pytest.FixtureRequest,
) -> None:
    """Requests that came earlier grow into the blocks of a gang while it is scored."""
    watched: WatchedEngine = request.getfixturevalue(engine)
    one, two = watched.adapters["chat"], watched.adapters["polite"]
    for n in range(4):
        watched.add(Job(tuple(range(30 + n, 58 + n)), params={"max_tokens": 30}))
    watched.step()
    rows = (Row(0.5), Row(0.3, one), Row(0.2, two))
    prompt = tuple(random.Random(3).choices(range(10, 500), k=100))
    scoring = Scoring(90, "again", members=True)
    params = {"max_tokens": 2, "prompt_logprobs": 0}
    job = Job(prompt, rows, params=params, mixture=mixture, scoring=scoring)
    name = watched.add(job)
    [gang] = watched.scheduler.gangs.by_leader.values()
    preempted_at = 0
    done: dict[str, Any] = {}
    while watched.engine.has_unfinished_requests():
        before = gang.leader.num_computed_tokens
        done |= {out.request_id: out for out in watched.step() if out.finished}
        if gang.leader.num_computed_tokens < before:
            preempted_at = before
    assert 10 < preempted_at < 100, "the gang was not preempted while it was scored"
    assert worst_error(oracle, job, prompt_scores(done[name])) <= MOST
    report = watched.scores("again")
    assert report["tokens"] == pytest.approx(prompt_scores(done[name])[10:], abs=MOST)
    assert len(report["members"][0]) == 90
    assert watched.leftovers() == []


@pytest.fixture(scope="module")
def crowded(zoo_base: Path, zoo_adapters: dict[str, Path]) -> WatchedEngine:
    """Many rows and a large step, but a KV cache of 736 tokens."""
    return WatchedEngine(zoo_base, zoo_adapters, kv_blocks=24, max_num_seqs=48)


@pytest.mark.parametrize(("engine", "tokens"), [("crowded", 201), ("tight", 130)])
def test_many_texts_from_their_first_token_on(
    engine: str, tokens: int, oracle: Oracle, request: pytest.FixtureRequest
) -> None:
    """Their gangs hold no KV blocks before they are released, and are admitted to the same ones."""
    watched: WatchedEngine = request.getfixturevalue(engine)
    rows = (Row(1.0), Row(0.7, watched.adapters["chat"]), Row(-0.4, watched.adapters["polite"]))
    params = {"max_tokens": 1, "prompt_logprobs": 0}
    rng = random.Random(tokens)
    jobs = [
        Job(tuple(rng.choices(range(10, 500), k=tokens)), rows, params=params) for _ in range(16)
    ]
    plain = [Job(tuple(range(30, 58)), params={"max_tokens": 20}) for _ in range(3)]
    outputs = watched.run([*plain, *jobs])[len(plain) :]
    for job, output in zip(jobs, outputs, strict=True):
        assert worst_error(oracle, job, prompt_scores(output)) <= MOST
    assert watched.leftovers() == []


@pytest.mark.parametrize("engine", ["roomy", "tight"])
@pytest.mark.parametrize("log_softmax", [False, True])
def test_members_weights_and_moments(
    engine: str, log_softmax: bool, oracle: Oracle, request: pytest.FixtureRequest
) -> None:
    """In one pass; the gradient and the Hessian are those of the oracle's own scores."""
    watched: WatchedEngine = request.getfixturevalue(engine)
    rng = random.Random(5)
    prompt, text = (tuple(rng.choices(range(10, 500), k=k)) for k in (20, 60))
    one, two = watched.adapters["chat"], watched.adapters["polite"]
    rows = (Row(1.0), Row(0.8, one), Row(-0.5, two, (40, 41, *text)))
    weights = ((1.0, 0.8, -0.5), (0.5, 0.5, 0.0), (2.0, -1.0, 1.5))
    job = Job(
        (*prompt, *text),
        rows,
        params={"max_tokens": 1, "prompt_logprobs": 0},
        log_softmax=log_softmax,
        scoring=Scoring(len(text), "a report", members=True, weights=weights, moments=True),
    )
    [output] = watched.run([job])
    report = watched.scores("a report")
    assert report["tokens"] == pytest.approx(prompt_scores(output)[-len(text) :], abs=MOST)
    assert worst_error(oracle, job, prompt_scores(output)) <= MOST

    def under(weights: Sequence[float]) -> torch.Tensor:
        changed = [replace(row, weight=w) for row, w in zip(rows, weights, strict=True)]
        return oracle_scores(oracle, replace(job, rows=tuple(changed)))

    for k in range(len(rows)):
        alone = under([float(k == j) for j in range(len(rows))])
        assert report["members"][k] == pytest.approx(alone.tolist(), abs=MOST)
    step = 0.01
    for n, at in enumerate(weights):
        assert report["weights"][n] == pytest.approx(under(at).tolist(), abs=3 * MOST)

        def total(*moves: tuple[int, float], at: tuple[float, ...] = at) -> float:
            moved = [w + sum(by for k, by in moves if k == j) for j, w in enumerate(at)]
            return float(under(moved).sum())

        for k in range(len(rows)):
            slope = (total((k, step)) - total((k, -step))) / (2 * step)
            assert report["gradients"][n][k] == pytest.approx(slope, rel=0.01, abs=0.05)
            for j in range(k + 1):
                signs = ((1, 1), (1, -1), (-1, 1), (-1, -1))
                bend = sum(a * b * total((k, a * step), (j, b * step)) for a, b in signs)
                bend /= 4 * step**2
                assert report["hessians"][n][k][j] == pytest.approx(bend, rel=0.05, abs=0.5)
    assert watched.leftovers() == []


@pytest.mark.parametrize("engine", ["roomy", "tight"])
@pytest.mark.parametrize(
    "filters", [(), (Filter(FilterKind.PLAUSIBILITY, 1, 0.1), Filter(FilterKind.TOP_P, 0, 0.9))]
)
def test_divergences(
    engine: str, filters: tuple[Filter, ...], oracle: Oracle, request: pytest.FixtureRequest
) -> None:
    """Of the plan's own weights from others, at every token: zero where these are the same."""
    watched: WatchedEngine = request.getfixturevalue(engine)
    rng = random.Random(6)
    prompt, text = (tuple(rng.choices(range(10, 500), k=k)) for k in (20, 60))
    one, two = watched.adapters["chat"], watched.adapters["polite"]
    rows = (Row(1.0), Row(0.8, one), Row(0.0, two))
    weights = ((1.0, 0.0, 0.0), (0.5, 0.5, -0.5), (1.0, 0.8, 0.0), (0.0, 0.0, 3.0))
    job = Job(
        (*prompt, *text),
        rows,
        filters,
        params={"max_tokens": 1, "prompt_logprobs": 0},
        scoring=Scoring(len(text), "distances", weights=weights, divergences=True),
    )
    watched.run([job])
    report = watched.scores("distances")

    def log_probs(at: Sequence[float]) -> torch.Tensor:
        changed = [replace(row, weight=w) for row, w in zip(rows, at, strict=True)]
        return oracle_log_probs(oracle, replace(job, rows=tuple(changed)))

    log_p = log_probs([row.weight for row in rows])
    for at, divergences in zip(weights, report["divergences"], strict=True):
        log_q = log_probs(at)
        wanted = [
            sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True) if a > -math.inf)
            for p, q in zip(log_p.tolist(), log_q.tolist(), strict=True)
        ]
        assert divergences == pytest.approx(wanted, rel=1e-3, abs=MOST)
    assert max(report["divergences"][2]) < 1e-6
    assert min(max(report["divergences"][n]) for n in (0, 1, 3)) > 0.1
    assert watched.leftovers() == []


def test_a_text_is_scored_in_few_steps(roomy: WatchedEngine) -> None:
    """All rows read 400 tokens in one chunk each, not token by token."""
    rows = (Row(1.0), Row(0.7, roomy.adapters["chat"]), Row(-0.4, roomy.adapters["polite"]))
    prompt = tuple(random.Random(7).choices(range(10, 500), k=400))
    before = len(roomy.watch.scheduled)
    roomy.run([Job(prompt, rows, params={"max_tokens": 1, "prompt_logprobs": 0})])
    steps = [list(step.values()) for step in roomy.watch.scheduled[before:] if step]
    assert steps == [[400] * 3]


def test_the_prefix_cache_serves_what_is_not_scored(roomy: WatchedEngine, oracle: Oracle) -> None:
    """Three blocks of 32 tokens before the scored part, which begins within the fourth."""
    rows = (Row(1.0), Row(0.7, roomy.adapters["chat"]), Row(-0.4, roomy.adapters["polite"]))
    prompt = tuple(random.Random(8).choices(range(10, 500), k=180))
    params = {"max_tokens": 1, "prompt_logprobs": 0}
    roomy.forget_prefixes()
    computed = []
    for name in ("first", "again"):
        before = len(roomy.watch.scheduled)
        job = Job(prompt, rows, params=params, scoring=Scoring(70, name))
        [output] = roomy.run([job])
        computed.append(sum(sum(step.values()) for step in roomy.watch.scheduled[before:]))
        assert worst_error(oracle, job, prompt_scores(output)) <= MOST
    assert computed == [3 * 180, 3 * (180 - 96)]


def test_the_base_alone_is_scored_as_by_vllm(roomy: WatchedEngine) -> None:
    """A gang whose members cancel to the base, beside the plain request."""
    prompt = tuple(range(20, 90))
    params = {"prompt_logprobs": 0, "max_tokens": 1}
    one = roomy.adapters["chat"]
    rows = (Row(1.0), Row(0.7, one), Row(-0.7, one))
    composed, plain = roomy.run([Job(prompt, rows, params=params), Job(prompt, params=params)])
    theirs, ours = prompt_scores(plain)[1:], prompt_scores(composed)[1:]
    assert ours == pytest.approx(theirs, abs=MOST)
