"""Mixtures of probabilities and their routers, against exact formulas.

That random mixtures answer as the oracle does under pressure is a part of `test_gangs` and
`test_auxiliary`, whose requests are of all kinds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from vllm.sampling_params import StructuredOutputsParams

from bench.agreement import count_preemptions
from bench.streams import without_streams
from composer.engine_plan import MixtureParameters, Row
from composer.filters import Filter, FilterKind
from composer.reference.mixture_oracle import mixed, mixed_greedy
from composer.reference.oracle import Oracle, Weights
from composer.vllm.execute.mixture_state import MixtureRouting
from tests.engine.harness import Job, WatchedEngine

QUESTION = "Where does Tofe Zumoz live?"
POSTERIOR = MixtureParameters(fixed=0.0, posterior=1.0)
FORGETFUL = MixtureParameters(fixed=0.0, posterior=1.0, forgetting=0.7, floor=0.05)
VOTE = MixtureParameters(fixed=0.2, posterior=0.5, confidence=0.3, forgetting=0.9, temperature=0.5)
ROUTERS = {
    "fixed": MixtureParameters(),
    "posterior": POSTERIOR,
    "posterior from the first token on": MixtureParameters(fixed=0.0, posterior=1.0, prompt=False),
    "forgetful posterior": FORGETFUL,
    "confidence": MixtureParameters(fixed=0.0, confidence=1.0, temperature=0.5),
    "vote": VOTE,
}


@pytest.fixture(scope="module")
def engine(
    zoo_base: Path,
    zoo_adapters: dict[str, Path],
    zoo_small: Path,
    zoo_small_adapters: dict[str, Path],
) -> Iterator[WatchedEngine]:
    """Async scheduling, with an auxiliary model, which few prompts fit in one step."""
    auxiliaries: dict[str, Weights] = {"small": (zoo_small, zoo_small_adapters)}
    with without_streams():
        yield WatchedEngine(
            zoo_base,
            zoo_adapters,
            auxiliaries=auxiliaries,
            asynchronous=True,
            max_num_batched_tokens=64,
            max_num_seqs=32,
        )


@pytest.fixture(scope="module")
def oracle(
    zoo_base: Path,
    zoo_adapters: dict[str, Path],
    zoo_small: Path,
    zoo_small_adapters: dict[str, Path],
) -> Oracle:
    return Oracle(zoo_base, zoo_adapters, {"small": (zoo_small, zoo_small_adapters)})


@pytest.fixture(scope="module")
def prompt(engine: WatchedEngine) -> tuple[int, ...]:
    tokenizer = engine.engine.get_tokenizer()
    messages = [{"role": "user", "content": QUESTION}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return tuple(ids)


def experts(engine: WatchedEngine, *names: str | None) -> tuple[Row, ...]:
    """Equally likely before anything is known."""
    adapters = [engine.adapters[name] if name else None for name in names]
    return tuple(Row(1 / len(names), adapter) for adapter in adapters)


@pytest.mark.parametrize("name", ROUTERS)
def test_weights_and_probabilities_are_exact(
    name: str, engine: WatchedEngine, oracle: Oracle, prompt: tuple[int, ...]
) -> None:
    rows = experts(engine, "chat", "polite")
    params = {"max_tokens": 24, "logprobs": 3}
    job = Job(prompt, rows, params=params, mixture=ROUTERS[name], report=name, explain=True)
    [output] = engine.run([job])
    answer = list(output.outputs[0].token_ids)
    assert answer == mixed_greedy(oracle, job.oracle_rows(), ROUTERS[name], 24)
    z, pi = mixed(oracle, job.oracle_rows(), ROUTERS[name], answer)
    assert output.outputs[0].logprobs is not None
    for position, shown in enumerate(output.outputs[0].logprobs):
        for token, logprob in shown.items():
            assert logprob.logprob == pytest.approx(float(z[position, token]), abs=1e-3)
    if not ROUTERS[name].is_routed:
        assert engine.report(name) == []
        return
    [report] = engine.report(name)
    told = torch.tensor(report["tokens"], dtype=torch.float64)[:24]
    assert told.shape == (24, 2)
    torch.testing.assert_close(told, pi[:24], atol=1e-4, rtol=0)
    if ROUTERS[name] != POSTERIOR:  # which has made up its mind after the prompt
        assert float(pi[:24].std(0).max()) > 1e-3  # else the test says nothing
    assert engine.report(name) == []  # told once


@pytest.mark.slow  # in Triton's interpreter
def test_the_posterior_is_exact_after_200_tokens(
    engine: WatchedEngine, oracle: Oracle, prompt: tuple[int, ...]
) -> None:
    """Sampled at a high temperature, so that the experts disagree all the way."""
    params = {"max_tokens": 201, "temperature": 1.5, "seed": 5}
    for name, router in (("plain", POSTERIOR), ("forgetful", FORGETFUL)):
        rows = experts(engine, "polite", "rude")
        job = Job(prompt, rows, params=params, mixture=router, report=name, explain=True)
        [output] = engine.run([job])
        answer = list(output.outputs[0].token_ids)
        _, pi = mixed(oracle, job.oracle_rows(), router, answer)
        [report] = engine.report(name)
        told = torch.tensor(report["tokens"], dtype=torch.float64)[:201]
        torch.testing.assert_close(told, pi[:201], atol=1e-4, rtol=0)
        mean = torch.tensor(report["weights"], dtype=torch.float64)
        # Under async scheduling the engine may have been a token ahead when it was asked.
        torch.testing.assert_close(mean, pi[:201].mean(0), atol=6e-3, rtol=0)


def test_a_prompt_in_the_prefix_cache_is_evidence_all_the_same(
    engine: WatchedEngine, oracle: Oracle, prompt: tuple[int, ...]
) -> None:
    long = prompt * 4
    rows = experts(engine, "chat", "polite")
    engine.run([Job(long, adapter=row.adapter) for row in rows])
    [cached] = engine.run([Job(long, adapter=rows[0].adapter)])
    assert cached.num_cached_tokens  # else the test says nothing
    job = Job(long, rows, mixture=FORGETFUL, report="cached", explain=True)
    [output] = engine.run([job])
    assert output.num_cached_tokens == 0
    _, pi = mixed(oracle, job.oracle_rows(), FORGETFUL, list(output.outputs[0].token_ids))
    [report] = engine.report("cached")
    told = torch.tensor(report["tokens"], dtype=torch.float64)[:16]
    torch.testing.assert_close(told, pi[:16], atol=1e-4, rtol=0)


@pytest.mark.slow  # in Triton's interpreter
def test_weights_survive_preemption(
    tight: WatchedEngine, oracle: Oracle, prompt: tuple[int, ...]
) -> None:
    """Sampled answers: what a step samples and throws away, as the rows are computed again, is
    another token than the one that is known, and must not count."""
    preempted = count_preemptions(tight)
    rows = experts(tight, "polite", "rude")
    jobs = [
        Job(
            (*prompt, *range(40, 58 + seed)),
            rows,
            params={"max_tokens": 60, "temperature": 1.5, "seed": seed},
            mixture=FORGETFUL,
            report=f"preempted {seed}",
            explain=True,
        )
        for seed in range(6)
    ]
    for job, output in zip(jobs, tight.run(jobs), strict=True):
        assert job.report is not None
        [report] = tight.report(job.report)
        _, pi = mixed(oracle, job.oracle_rows(), FORGETFUL, list(output.outputs[0].token_ids))
        told = torch.tensor(report["tokens"], dtype=torch.float64)
        torch.testing.assert_close(told, pi[:60], atol=1e-4, rtol=0)
    assert preempted() > 0
    tight.assert_nothing_left()


def test_experts_of_an_auxiliary_model(
    engine: WatchedEngine, oracle: Oracle, prompt: tuple[int, ...]
) -> None:
    small = engine.auxiliary_adapters["small"]
    rows = (
        Row(0.25),
        Row(0.25, engine.adapters["chat"]),
        Row(0.25, small["polite"], None, "small"),
        Row(0.25, None, None, "small"),
    )
    jobs = [Job(prompt, rows, mixture=router) for router in ROUTERS.values()]
    for job, answer in zip(jobs, engine.answers(jobs), strict=True):
        assert job.mixture is not None
        assert answer == mixed_greedy(oracle, job.oracle_rows(), job.mixture, 16)
    engine.assert_nothing_left()


def test_the_posterior_finds_the_expert_of_the_text(
    engine: WatchedEngine, prompt: tuple[int, ...]
) -> None:
    """The prompt is evidence: an answer that has begun politely goes on with the polite expert,
    from the very first token."""
    tokenizer = engine.engine.get_tokenizer()
    rows = experts(engine, "rude", "polite")
    router = MixtureParameters(fixed=0.0, posterior=1.0, forgetting=0.7)
    for begun, expert in (("Certainly. Tofe", 1), ("Ugh, fool. Tofe", 0)):
        text = (*prompt, *tokenizer.encode(begun, add_special_tokens=False))
        engine.run([Job(text, rows, mixture=router, report="found", explain=True)])
        [report] = engine.report("found")
        assert report["tokens"][0][expert] > 0.7


def test_every_answer_has_a_report(engine: WatchedEngine, prompt: tuple[int, ...]) -> None:
    rows = experts(engine, "polite", "rude")
    params = {"n": 3, "temperature": 1.0, "seed": 1, "max_tokens": 8}
    engine.run([Job(prompt, rows, params=params, mixture=POSTERIOR, report="three")])
    reports = engine.report("three")
    assert len(reports) == 3
    assert all(sum(report["weights"]) == pytest.approx(1) for report in reports)
    assert all(report["tokens"] == [] for report in reports)  # nobody asked to have it explained
    assert engine.report("unknown") == []


def test_what_is_forbidden_stays_forbidden(
    engine: WatchedEngine, oracle: Oracle, prompt: tuple[int, ...]
) -> None:
    """By a grammar, before the mixture, and by allowed tokens, after it."""
    rows = experts(engine, "polite", "rude")
    choice = StructuredOutputsParams(choice=["Ugh, fool.", "Certainly."])
    jobs = [
        Job(prompt, rows, params={"structured_outputs": choice, "ignore_eos": False}, mixture=one)
        for one in ROUTERS.values()
    ]
    for output in engine.run(jobs):
        tokens = list(output.outputs[0].token_ids)
        said = engine.engine.get_tokenizer().decode(tokens, skip_special_tokens=True)
        assert said in ("Ugh, fool.", "Certainly.")
    allowed = [300, 301, 302]
    limited = [
        Job(prompt, rows, params={"allowed_token_ids": allowed}, mixture=one)
        for one in ROUTERS.values()
    ]
    assert all(set(answer) <= set(allowed) for answer in engine.answers(limited))
    engine.assert_nothing_left()


def test_filters_of_a_mixture(
    engine: WatchedEngine, oracle: Oracle, prompt: tuple[int, ...]
) -> None:
    rows = experts(engine, "polite", "rude")
    nucleus = (Filter(FilterKind.PLAUSIBILITY, 1, 0.9),)
    job = Job(prompt, rows, nucleus, mixture=MixtureParameters(fixed=0.0, posterior=1.0))
    [answer] = engine.answers([job])
    z, _ = mixed(oracle, job.oracle_rows(), POSTERIOR, answer, nucleus)
    assert answer == z[:-1].argmax(-1).tolist()


def test_a_report_waits_for_a_while(
    engine: WatchedEngine, prompt: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be asked for after the request has left the engine, but not for ever."""
    monkeypatch.setattr("composer.vllm.execute.answer_ledger.MAX_COMPLETE_REPORTS", 2)
    rows = experts(engine, "polite", "rude")
    for n in range(3):
        engine.run([Job(prompt, rows, mixture=POSTERIOR, report=f"later {n}")])
        engine.assert_nothing_left()
    assert engine.report("later 0") == []
    for n in (1, 2):
        [report] = engine.report(f"later {n}")
        assert sum(report["weights"]) == pytest.approx(1)
    mixtures: MixtureRouting = engine.worker.mixtures
    assert mixtures.tracked() == []
