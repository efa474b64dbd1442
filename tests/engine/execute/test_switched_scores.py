"""A text scored with a row that switches: each token by the adapter that would have computed it.

Random ones, under memory pressure and beside all others, are a part of `test_prompt_scoring`.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.inprocess import prompt_scores
from bench.scoring import worst_error
from bench.workload import random_gate
from composer.engine_plan import LoadedAdapter, Scoring, Switch
from composer.reference.oracle import Oracle
from tests.engine.harness import Job, WatchedEngine
from tests.support.adapter_layers import with_head

PROMPT = tuple(range(40, 77))
MOST = 1e-4  # nats
SCORED = {"max_tokens": 1, "prompt_logprobs": 0}


def gate(*candidates: LoadedAdapter | None) -> Switch:
    return Switch(candidates, gate=str(random_gate()), classes=tuple(range(len(candidates))))


def triggers(*candidates: LoadedAdapter | None) -> Switch:
    return Switch(candidates, triggers=tuple(range(0, 1024, 4)))


def text(seed: int, tokens: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(10, 500), k=tokens))


@pytest.mark.parametrize("engine", ["roomy", "tight", "asynchronous"])
@pytest.mark.parametrize("kind", [gate, triggers])
def test_an_answer_is_scored_as_it_was_generated(
    engine: str, kind: Any, request: pytest.FixtureRequest
) -> None:
    """With the same adapters, and with the logprobs that sampling has reported."""
    watched: WatchedEngine = request.getfixturevalue(engine)
    switch = kind(None, watched.adapters["chat"], watched.adapters["velan"])
    for length in (1, 2, 33, 90):
        params: dict[str, Any] = {"max_tokens": 30, "logprobs": 0}
        job = Job(text(length, length), switch=switch, params=params, report="generated")
        [output] = watched.run([job])
        [report] = watched.report("generated")
        answer = output.outputs[0]
        assert answer.logprobs is not None
        given = [
            place[token].logprob
            for place, token in zip(answer.logprobs, answer.token_ids, strict=True)
        ]
        whole = (*job.prompt, *answer.token_ids)
        scored = Job(whole, switch=switch, params=SCORED, scoring=Scoring(30, "scored"))
        [output] = watched.run([scored])
        told = watched.scores("scored")
        assert told["choices"] == report["tokens"]
        assert len({*told["choices"]}) > 1, "nothing was switched: the test says nothing"
        assert told["tokens"] == pytest.approx(given, abs=MOST)
        assert prompt_scores(output)[-30:] == pytest.approx(given, abs=MOST)
    watched.assert_nothing_left()


def test_a_gate_needs_a_step_for_each_token_and_triggers_none(roomy: WatchedEngine) -> None:
    candidates = (roomy.adapters["chat"], roomy.adapters["velan"])
    steps = []
    roomy.forget_prefixes()
    for kind in (triggers, gate):
        before = len(roomy.watch.scheduled)
        scoring = Scoring(20, "steps")
        roomy.run([Job(text(5, 60), switch=kind(*candidates), params=SCORED, scoring=scoring)])
        roomy.forget_prefixes()
        steps.append([n for step in roomy.watch.scheduled[before:] for n in step.values()])
    assert steps == [[39, 21], [39, *[1] * 21]]


def test_what_follows_a_scored_text_continues_it(roomy: WatchedEngine) -> None:
    switch = gate(None, roomy.adapters["chat"], roomy.adapters["velan"])
    whole = {"max_tokens": 20, "prompt_logprobs": 0}
    [first] = roomy.run([Job(PROMPT, switch=switch, params={"max_tokens": 20})])
    answer = tuple(first.outputs[0].token_ids)
    scored = Job((*PROMPT, *answer[:8]), switch=switch, params=whole, scoring=Scoring(8, "begun"))
    [again] = roomy.run([scored])
    assert tuple(again.outputs[0].token_ids)[:12] == answer[8:]


@pytest.mark.parametrize("engine", ["tight", "asynchronous"])
@pytest.mark.parametrize(("kind", "tokens"), [(gate, 28), (triggers, 30)])
def test_what_is_preempted_is_scored_again_as_it_was(
    engine: str, kind: Any, tokens: int, oracle: Oracle, request: pytest.FixtureRequest
) -> None:
    """Five requests of `tokens` tokens that came earlier grow into the blocks of a text."""
    watched: WatchedEngine = request.getfixturevalue(engine)
    for n in range(5):
        watched.add(Job(tuple(range(30 + n, 30 + tokens + n)), params={"max_tokens": 60}))
    watched.step()
    switch = kind(None, watched.adapters["chat"], watched.adapters["velan"])
    job = Job(text(3, 200), switch=switch, params=SCORED, scoring=Scoring(150, "again"))
    name = watched.add(job)
    [gang] = watched.scheduler.gangs.by_leader.values()
    preempted_at = 0
    done: dict[str, Any] = {}
    while watched.engine.has_unfinished_requests():
        before = gang.leader.num_computed_tokens
        done |= {out.request_id: out for out in watched.step() if out.finished}
        if gang.leader.num_computed_tokens < before:
            preempted_at = before
    assert 50 < preempted_at < 200, "the text was not preempted while it was scored"
    assert worst_error(oracle, job, prompt_scores(done[name])) <= MOST
    report = watched.scores("again")
    assert report["tokens"] == pytest.approx(prompt_scores(done[name])[50:], abs=MOST)
    assert len(report["choices"]) == 150
    watched.assert_nothing_left()


def test_the_prefix_cache_shares_what_is_not_scored(roomy: WatchedEngine) -> None:
    """Three blocks of 32 tokens come before the block with the last token of the prompt."""
    roomy.forget_prefixes()
    chat = roomy.adapters["chat"]
    whole = text(11, 180)
    switch = gate(chat, None, roomy.adapters["velan"])
    job = Job(whole, switch=switch, params=SCORED, scoring=Scoring(70, "shared"))
    cached, scores = [], []
    for again in (job, job, Job(whole, adapter=chat, params={"max_tokens": 4})):
        [output] = roomy.run([again])
        cached.append(output.num_cached_tokens)
        if again is job:
            scores.append(prompt_scores(output)[110:])
    assert scores[1] == pytest.approx(scores[0], abs=MOST)
    assert cached[2] == 96, "a request with one adapter got what a gate had computed"
    assert cached[:2] == [0, 96]


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*")
@pytest.mark.parametrize("kind", [gate, triggers])
def test_an_adapter_of_the_output_layer_counts_for_its_own_tokens(
    kind: Any, roomy: WatchedEngine, zoo_base: Path, zoo_adapters: dict[str, Path], tmp_path: Path
) -> None:
    path = with_head(tmp_path / "own")
    own = LoadedAdapter("own", 6005, str(path))
    oracle = Oracle(zoo_base, {"own": path, "chat": zoo_adapters["chat"]})
    chat = roomy.adapters["chat"]
    whole = (*PROMPT, *text(9, 60))
    job = Job(whole, switch=kind(chat, own), params=SCORED, scoring=Scoring(60, "head"))
    beside = Job(PROMPT, adapter=roomy.adapters["polite"], params={"max_tokens": 4})
    _, output = roomy.run([beside, job])
    assert {*roomy.scores("head")["choices"]} == {0, 1}
    assert worst_error(oracle, job, prompt_scores(output)) <= MOST
    other = replace(job, switch=kind(chat, chat))
    assert worst_error(oracle, other, prompt_scores(output)) > 0.1, "the adapter changes nothing"
    roomy.retire(own)
