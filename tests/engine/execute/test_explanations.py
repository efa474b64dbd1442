"""Explanations of answers, against figures computed from the oracle's logits in float64."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from vllm.sampling_params import StructuredOutputsParams

from bench.workload import random_job
from composer.engine_plan import Explaining, MixtureParameters, Row
from composer.reference.mixture_oracle import mixed
from composer.reference.oracle import Oracle
from composer.tensors.explain_kernel import BEST
from composer.vllm.execute.scoring import explanations
from tests.engine.execute.test_switching import gate_between, reference
from tests.engine.harness import Job, WatchedEngine

ERROR = 2e-4  # nats
PROMPT = tuple(range(40, 77))
ROUTED = MixtureParameters(fixed=0.0, posterior=1.0, forgetting=0.9)


def explained(job: Job, name: str) -> Job:
    """The same request, compared with its first row that is the base."""
    rows = job.rows or ()
    bases = [k for k, row in enumerate(rows) if row == Row(row.weight)]
    return replace(job, explanation=Explaining(name, bases[0] if bases else None))


def expected(oracle: Oracle, job: Job, answer: list[int]) -> Iterator[dict[str, Any]]:
    """Yield what an explanation must say of each token."""
    rows = job.oracle_rows()
    members = torch.stack(
        [
            oracle.logits(row.adapter, [*row.prompt, *answer], row.model)[len(row.prompt) - 1 : -1]
            for row in rows
        ]
    ).double()  # [K, T, V]
    weights = torch.tensor([[row.weight for row in rows]] * len(answer)).double()
    if job.mixture is None:
        z = oracle.composed(rows, job.filters, answer)[:-1].double()
    else:
        z, pi = (part[:-1] for part in mixed(oracle, rows, job.mixture, answer, job.filters))
        weights = pi.double()
    alone = members.log_softmax(-1)
    for t, y in enumerate(answer):
        log_p = z[t].log_softmax(-1)
        p = log_p.exp()
        best = log_p.topk(BEST)
        token: dict[str, Any] = {
            "id": y,
            "logprob": float(log_p[y]),
            "member_logprobs": alone[:, t, y].tolist(),
            "best": list(zip(best.indices.tolist(), best.values.tolist(), strict=True)),
        }
        if job.mixture is not None:
            of_member = (weights[t].log() + alone[:, t, y]).exp()
            token["responsibilities"] = (of_member / of_member.sum()).tolist()
            token["weights"] = weights[t].tolist()
        else:
            advantage = members[:, t, y] - (members[:, t] * p).sum(-1)
            token["contributions"] = (weights[t] * advantage).tolist()
        assert job.explanation is not None
        if (base := job.explanation.base) is not None:
            kept = p > 0
            kl = (p[kept] * (log_p[kept] - alone[base, t][kept])).sum()
            rank = int((members[base, t] > members[base, t, y]).sum()) + 1
            of_base = alone[base, t].topk(BEST)
            token["base"] = {
                "logprob": float(alone[base, t, y]),
                "kl": float(kl),
                "rank": rank,
                "best": list(zip(of_base.indices.tolist(), of_base.values.tolist(), strict=True)),
            }
        yield token


def check(found: Any, wanted: Any, where: str) -> None:
    """Compare figures; equal log-probabilities may exchange ids and ranks."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for name, value in wanted.items():
            check(found[name], value, f"{where}.{name}")
    elif where.endswith("best"):
        found, wanted = ([(id, v) for id, v in best if v > -9999] for best in (found, wanted))
        assert [v for _, v in found] == pytest.approx([v for _, v in wanted], abs=ERROR), where
        for (id, value), (other, _) in zip(found, wanted, strict=True):
            near = sum(abs(value - v) < 2 * ERROR for _, v in wanted)
            assert id == other or near > 1 or value == min(v for _, v in found), where
    elif where.endswith("rank"):
        assert abs(found - wanted) <= 1, where
    else:
        assert found == pytest.approx(wanted, abs=ERROR, rel=1e-4), where


@pytest.mark.parametrize("which", ["roomy", "tight", "asynchronous"])
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_explanations_are_exact_under_pressure(
    which: str, seed: int, oracle: Oracle, request: pytest.FixtureRequest
) -> None:
    """Requests of all kinds, explained or not, in one batch that is preempted."""
    engine: WatchedEngine = request.getfixturevalue(which)
    rng = random.Random(seed)
    jobs = [random_job(rng, engine) for _ in range(36)]
    jobs = [explained(j, f"{n}") if j.rows and n % 3 else j for n, j in enumerate(jobs)]
    told = 0
    for n, (job, answer) in enumerate(zip(jobs, engine.answers(jobs), strict=True)):
        if job.explanation is None:
            continue
        [report] = engine.explained(f"{n}")
        tokens = report["tokens"]
        assert len(tokens) == len(answer)
        for position, wanted in enumerate(expected(oracle, job, answer)):
            check(tokens[position], wanted, f"{job} token {position}")
        told += len(answer)
        assert engine.explained(f"{n}") == []  # told once
    assert told > 200
    engine.assert_nothing_left()


@pytest.mark.parametrize("which", ["roomy", "asynchronous"])
def test_what_was_told_while_the_answer_grew_stays_true(
    which: str, request: pytest.FixtureRequest
) -> None:
    engine: WatchedEngine = request.getfixturevalue(which)
    rows = (Row(0.5), Row(0.3, engine.adapters["chat"]), Row(0.2, engine.adapters["polite"]))
    for mixture in (None, ROUTED):
        params = {"temperature": 1.0, "seed": 3, "max_tokens": 24, "n": 2}
        job = Job(PROMPT, rows, mixture=mixture, params=params)
        job = replace(job, explanation=Explaining("growing", 0))
        engine.add(job)
        seen: dict[str, int] = {}
        grown: dict[str, list[Any]] = {}
        parts = 0
        answers: dict[int, Any] = {}
        while engine.engine.has_unfinished_requests():
            answers |= {o.index: o.token_ids for out in engine.step() for o in out.outputs}
            for report in engine.explained("growing", seen, last=False):
                name, tokens = report["name"], report["tokens"]
                seen[name] = seen.get(name, 0) + len(tokens)
                grown.setdefault(name, []).extend(report["tokens"])
                parts += bool(tokens)
        assert parts > 20, "most of it came at the end"
        for report in engine.explained("growing", seen):
            grown[report["name"]] += report["tokens"]
        told = sorted(tuple(t["id"] for t in tokens) for tokens in grown.values())
        assert told == sorted(tuple(ids) for ids in answers.values())
    engine.assert_nothing_left()


@pytest.mark.parametrize("asks_while_it_grows", [False, True])
def test_no_answer_is_explained_beyond_its_end(
    asynchronous: WatchedEngine, asks_while_it_grows: bool
) -> None:
    """Async scheduling samples a token more before it learns that an answer has ended."""
    rows = (Row(1.0), Row(0.5, asynchronous.adapters["chat"]))
    params: dict[str, Any] = {"temperature": 1.3, "seed": 4, "max_tokens": 40, "n": 8}
    params |= {"ignore_eos": False, "stop_token_ids": list(range(60, 100))}
    asynchronous.add(Job(PROMPT, rows, params=params, explanation=Explaining("ended", 0)))
    seen: dict[str, int] = {}
    told: dict[str, list[int]] = defaultdict(list)
    answers: dict[int, tuple[int, ...]] = {}

    def note(last: bool) -> None:
        for report in asynchronous.explained("ended", seen, last=last):
            told[report["name"]] += [token["id"] for token in report["tokens"]]
            seen[report["name"]] = len(told[report["name"]])

    while asynchronous.engine.has_unfinished_requests():
        answers |= {o.index: tuple(o.token_ids) for r in asynchronous.step() for o in r.outputs}
        if asks_while_it_grows:
            note(last=False)
    note(last=True)
    assert sum(len(answer) < 40 for answer in answers.values()) > 4
    assert sorted(map(tuple, told.values())) == sorted(answers.values())
    asynchronous.assert_nothing_left()


def test_a_long_answer_is_told_in_pieces(
    roomy: WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No report keeps the engine from its steps for long."""
    monkeypatch.setattr(explanations, "TOLD_AT_ONCE", 8)
    rows = (Row(0.5), Row(0.5, roomy.adapters["chat"]))
    [short, long] = (
        Job(PROMPT, rows, params={"max_tokens": count}, explanation=Explaining("pieces", 0))
        for count in (5, 20)
    )
    names = [roomy.add(short), roomy.add(long)]
    answers: dict[str, list[int]] = {}
    while roomy.engine.has_unfinished_requests():
        answers |= {out.request_id: list(out.outputs[0].token_ids) for out in roomy.step()}
    told: dict[str, list[int]] = defaultdict(list)
    sizes = []
    more = True
    while more:
        seen = {name: len(tokens) for name, tokens in told.items()}
        arguments = ("pieces", seen, True)
        [reports] = roomy.core.collective_rpc("explanation_report", args=arguments)
        for report in reports:
            told[report["name"]] += [token["id"] for token in report["tokens"]]
        sizes.append([len(report["tokens"]) for report in reports])
        more = any(report["more"] for report in reports)
    assert sorted(map(sorted, sizes)) == [[0, 4], [0, 8], [5, 8]]
    assert sorted(told.values()) == sorted(answers[name] for name in names)
    assert roomy.explained("pieces") == []
    roomy.assert_nothing_left()


def test_what_nobody_will_ask_for_is_forgotten(roomy: WatchedEngine) -> None:
    rows = (Row(0.5), Row(0.5, roomy.adapters["chat"]))
    roomy.add(Job(PROMPT, rows, params={"max_tokens": 5}, explanation=Explaining("left", 0)))
    while roomy.engine.has_unfinished_requests():
        roomy.step()
    assert roomy.explained("left", last=False)
    roomy.core.collective_rpc("drop_explanation", args=("left",))
    assert roomy.explained("left") == []


def test_of_a_switch_the_candidate_of_every_token(roomy: WatchedEngine, oracle: Oracle) -> None:
    switch = gate_between(roomy, None, "chat", "velan")
    job = Job(PROMPT, switch=switch, explanation=Explaining("switch"))
    [answer] = roomy.answers([job])
    [report] = roomy.explained("switch")
    choices = reference(oracle, job, answer)
    assert [token["candidate"] for token in report["tokens"]] == choices
    names = [one.name if one else None for one in switch.candidates]
    every = [names[switch.start]] * (len(PROMPT) - 1) + [names[k] for k in choices]
    z, _ = oracle.switched(PROMPT, answer, [*every, None])
    for token, id, logits in zip(report["tokens"], answer, z, strict=False):
        assert token["id"] == id
        assert token["logprob"] == pytest.approx(float(logits.log_softmax(-1)[id]), abs=ERROR)


def test_what_a_grammar_forbids_is_impossible_for_everyone(roomy: WatchedEngine) -> None:
    rows = (Row(1.0), Row(0.7, roomy.adapters["chat"]))
    params = {
        "structured_outputs": StructuredOutputsParams(choice=["yes", "no"]),
        "ignore_eos": False,
    }
    job = Job(PROMPT, rows, params=params, explanation=Explaining("grammar", 0))
    [answer] = roomy.answers([job])
    [report] = roomy.explained("grammar")
    tokens = report["tokens"]
    assert [token["id"] for token in tokens] == answer
    for token in tokens:
        assert token["best"][-1][1] == -math.inf  # fewer tokens than BEST are allowed
        assert token["base"]["best"][-1][1] == -math.inf
        assert token["base"]["kl"] < 20
        assert all(map(math.isfinite, token["contributions"]))
        total = token["contributions"][0] + token["contributions"][1]
        mean = sum(math.exp(v) * v for _, v in token["best"] if v > -math.inf)
        assert total == pytest.approx(token["logprob"] - mean, abs=ERROR)


def test_none_is_explained_unless_it_is_asked(roomy: WatchedEngine) -> None:
    rows = (Row(1.0), Row(0.7, roomy.adapters["chat"]))
    roomy.add(Job(PROMPT, rows))
    roomy.step()
    assert not roomy.worker.explanations
    roomy.drain()
