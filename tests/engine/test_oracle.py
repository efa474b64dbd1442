"""The engine's answers are the oracle's, whatever runs beside them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from composer.engine_plan import Row
from composer.filters import Filter, FilterKind
from composer.reference.oracle import Oracle
from tests.engine.harness import Job, WatchedEngine, count_mismatches

PROMPT = tuple(range(40, 77))
OTHER = tuple(range(100, 160))


def shapes(engine: WatchedEngine) -> dict[str, Job]:
    polite, rude, chat = (engine.adapters[name] for name in ("polite", "rude", "chat"))
    return {
        "proxy tuning": Job(PROMPT, (Row(1.0), Row(1.0, polite), Row(-1.0, rude))),
        "adapter leads": Job(PROMPT, (Row(1.0, chat), Row(0.8, polite), Row(-0.8, rude))),
        "negative prompt": Job(PROMPT, (Row(1.5, chat), Row(-0.5, chat, OTHER))),
        "last token": Job(PROMPT, (Row(1.5), Row(-0.5, None, PROMPT[-1:]))),
        "one-token request": Job(PROMPT[:1], (Row(1.5), Row(-0.5, None, OTHER))),
        "all of one token": Job(PROMPT[:1], (Row(1.5), Row(-0.5, polite))),
        "scaled": Job(PROMPT, (Row(2.0, chat),)),
        "plausibility": Job(
            PROMPT,
            (Row(1.5, chat), Row(-0.5)),
            (Filter(FilterKind.PLAUSIBILITY, 0, 0.1),),
        ),
        "nucleus": Job(
            PROMPT,
            (Row(1.0), Row(2.0, polite), Row(-2.0, rude)),
            (Filter(FilterKind.TOP_P, 0, 0.9),),
        ),
        "top-k": Job(
            PROMPT,
            (Row(1.0), Row(3.0, polite), Row(-3.0, rude)),
            (Filter(FilterKind.TOP_K, 0, 5),),
        ),
        "soft top-k": Job(
            PROMPT,
            (Row(1.0), Row(3.0, polite), Row(-3.0, rude)),
            (Filter(FilterKind.SOFT_TOP_K, 0, 5),),
        ),
        "soft top-k of a companion": Job(
            PROMPT,
            (Row(0.5), Row(1.0, chat), Row(2.0, polite)),
            (Filter(FilterKind.SOFT_TOP_K, 1, 20), Filter(FilterKind.TOP_P, 1, 0.999)),
        ),
        "two filters": Job(
            PROMPT,
            (Row(1.0), Row(2.0, polite), Row(-2.0, rude)),
            (Filter(FilterKind.TOP_P, 1, 0.5), Filter(FilterKind.PLAUSIBILITY, 0, 0.01)),
        ),
        "five rows": Job(
            PROMPT,
            (Row(0.2), Row(0.5, chat), Row(0.7, polite), Row(-0.7, rude), Row(0.1, None, OTHER)),
        ),
    }


SHAPES = (
    "proxy tuning",
    "adapter leads",
    "negative prompt",
    "last token",
    "one-token request",
    "all of one token",
    "scaled",
    "plausibility",
    "nucleus",
    "top-k",
    "soft top-k",
    "soft top-k of a companion",
    "two filters",
    "five rows",
)


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_answer_alone(name: str, roomy: WatchedEngine, oracle: Oracle) -> None:
    job = shapes(roomy)[name]
    [answer] = roomy.answers([job])
    assert answer == oracle.greedy(job.oracle_rows(), job.filters, 16)


def test_greedy_answers_in_one_batch(roomy: WatchedEngine, oracle: Oracle) -> None:
    plain = [Job(PROMPT), Job(OTHER, adapter=roomy.adapters["velan"])]
    jobs = [*shapes(roomy).values(), *plain] * 2
    wrong, ties = count_mismatches(oracle, jobs, roomy.answers(jobs))
    assert (wrong, ties) == (0, 0)
    roomy.assert_nothing_left()


def test_the_order_of_rows_does_not_matter(roomy: WatchedEngine) -> None:
    polite, rude = roomy.adapters["polite"], roomy.adapters["rude"]
    rows = (Row(1.0), Row(0.8, polite), Row(-0.8, rude))
    answers = roomy.answers([Job(PROMPT, rows), Job(PROMPT, (rows[2], rows[0], rows[1]))])
    assert answers[0] == answers[1]


def test_logprobs_are_those_of_the_composed_distribution(
    roomy: WatchedEngine, oracle: Oracle
) -> None:
    jobs = list(shapes(roomy).values())
    for job in jobs:
        job.params = {"logprobs": 5, "max_tokens": 8, "temperature": 0.7, "seed": 3}
    for job, output in zip(jobs, roomy.run(jobs), strict=True):
        answer = list(output.outputs[0].token_ids)
        expected = oracle.composed(job.oracle_rows(), job.filters, answer).log_softmax(-1)
        logprobs = output.outputs[0].logprobs
        assert logprobs is not None
        for position, shown in enumerate(logprobs):
            for token, logprob in shown.items():
                value = float(expected[position, token])
                if value == -math.inf:  # JSON has no infinity
                    assert logprob.logprob < -60_000
                else:
                    assert logprob.logprob == pytest.approx(value, abs=1e-3, rel=1e-6)


def test_samples_follow_the_composed_distribution(roomy: WatchedEngine, oracle: Oracle) -> None:
    chat, velan = roomy.adapters["chat"], roomy.adapters["velan"]
    rows = (Row(1.0), Row(1.0, chat), Row(-1.0, velan))
    job = Job(PROMPT, rows)
    z = oracle.composed(job.oracle_rows(), (), [])[-1]
    allowed = z.topk(11).indices[3:].tolist()  # without the few that take nearly all of the mass
    samples = 1500
    job.params = {
        "n": samples,
        "max_tokens": 1,
        "temperature": 2.0,
        "allowed_token_ids": allowed,
    }
    torch.manual_seed(11)  # unseeded requests draw from the global generator
    [output] = roomy.run([job])
    counts = torch.zeros(len(allowed))
    for answer in output.outputs:
        counts[allowed.index(answer.token_ids[0])] += 1
    expected = (z[allowed] / 2.0).softmax(-1) * samples
    assert expected.min() > 5  # else the test says nothing
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 24.3  # 7 degrees of freedom, p = 0.001
    base = Job(PROMPT).oracle_rows()
    plain = (oracle.composed(base, (), [])[-1][allowed] / 2.0).softmax(-1) * samples
    assert float(((counts - plain) ** 2 / plain).sum()) > 100  # the base alone is another one


@pytest.mark.parametrize("negative", [PROMPT[-1:], OTHER], ids=["last token", "negative prompt"])
def test_guidance_with_a_repetition_penalty_is_that_of_transformers(
    roomy: WatchedEngine, zoo_base: Path, negative: tuple[int, ...]
) -> None:
    """transformers penalizes `g*log_softmax(c) + (1 - g)*log_softmax(u)`: the sign of a log-
    probability decides whether the penalty multiplies or divides. Sums of logits differ."""
    params = {"repetition_penalty": 1.3, "max_tokens": 24}
    job = Job(PROMPT, (Row(1.5), Row(-0.5, None, negative)), params=params, log_softmax=True)
    model: Any = AutoModelForCausalLM.from_pretrained(zoo_base, dtype=torch.float32)
    generated = model.generate(
        torch.tensor([PROMPT]),
        guidance_scale=1.5,
        negative_prompt_ids=torch.tensor([negative]),
        repetition_penalty=1.3,
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=-1,
    )
    expected = generated[0, len(PROMPT) :].tolist()
    assert roomy.answers([job]) == [expected]
    assert roomy.answers([replace(job, log_softmax=False)]) != [expected]


def test_log_probabilities_are_those_of_the_sum_of_logits(roomy: WatchedEngine) -> None:
    """Adding log-probabilities shifts a row, which no reported log-probability shows."""
    params = {"repetition_penalty": 1.0001, "logprobs": 3, "max_tokens": 1}
    rows = (Row(1.5), Row(-0.5, None, OTHER))
    shown = [
        output.outputs[0].logprobs[0]
        for output in roomy.run(
            [Job(PROMPT, rows, params=params, log_softmax=flag) for flag in (False, True)]
        )
    ]
    values = [{token: entry.logprob for token, entry in each.items()} for each in shown]
    assert values[0] == pytest.approx(values[1], abs=1e-3)


def test_random_requests_in_one_batch(
    roomy: WatchedEngine, oracle: Oracle, make_job: Callable[[random.Random, WatchedEngine], Job]
) -> None:
    rng = random.Random(0)
    jobs = [make_job(rng, roomy) for _ in range(40)]
    wrong, _ = count_mismatches(oracle, jobs, roomy.answers(jobs))
    assert wrong == 0
    roomy.assert_nothing_left()
