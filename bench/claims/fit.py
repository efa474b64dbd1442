"""Weights found from answers that a known composition has sampled."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import AutoTokenizer

import zoo
from bench.claim import Result
from bench.inprocess import InProcessEngine, Job
from bench.measure import show, table
from composer.engine_plan import Row, Scoring
from composer.fitting.affine import AffineFormula
from composer.fitting.newton import Floats, Newton, Point
from zoo.prompts import EXAMPLES

DRAWS, EXAMPLES_EACH, HELD_OUT, TOKENS = 20, 40, 10, 24
FORMULA = AffineFormula.parse("chat + a*(polite - rude)", ("chat", "polite", "rude"))
MOST_PASSES = 10


def measure() -> Result:
    """Return in how many of `DRAWS` the true weight lies within two standard errors.

    The claim also needs at most `MOST_PASSES` passes, and over all draws a held-out likelihood that
    the best member of each draw does not exceed: where the true weight is nearly a member's, ten
    answers cannot tell the two apart.
    """
    engine = InProcessEngine(zoo.BASE, zoo.ADAPTERS)
    tokenizer = AutoTokenizer.from_pretrained(zoo.BASE)
    questions = [
        tuple(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": line}], add_generation_prompt=True, return_dict=True
            )["input_ids"]
        )
        for line in EXAMPLES["chat"].read_text("utf-8").splitlines()
    ]
    adapters = [engine.adapters[name] for name in FORMULA.models]
    inside, passes, rows, judged = 0, 0, [], np.zeros(2)
    for draw in range(DRAWS):
        rng = random.Random(draw)
        truth = rng.uniform(-1.0, 1.0)
        weights = FORMULA.weights([truth]).tolist()
        members = tuple(Row(w, a) for w, a in zip(weights, adapters, strict=True))
        params = {"temperature": 1.0, "max_tokens": TOKENS, "ignore_eos": False}
        sampled = [
            Job(rng.choice(questions), members, params=params | {"seed": 1000 * draw + n})
            for n in range(EXAMPLES_EACH + HELD_OUT)
        ]
        answers = engine.answers(sampled)
        examples = [
            replace(job, prompt=(*job.prompt, *answer), scoring=Scoring(len(answer), "-"))
            for job, answer in zip(sampled, answers, strict=True)
        ]
        held_out, learned = examples[:HELD_OUT], examples[HELD_OUT:]
        tokens = sum(map(len, answers[HELD_OUT:]))
        newton = Newton(np.zeros(1), np.full(1, -10.0), np.full(1, 10.0), tokens)
        while not newton.done and newton.passes < MOST_PASSES:
            newton.learn(_points(engine, learned, newton.proposed))
        assert newton.best is not None
        [found], [error] = newton.best.theta, newton.standard_errors()
        inside += bool(abs(found - truth) <= 2 * error)
        passes = max(passes, newton.passes)
        alone = list(np.eye(len(FORMULA.models)))
        fitted = FORMULA.weights(newton.best.theta)
        fit, *others = (
            sum(r) for r in zip(*_scores(engine, held_out, [fitted, *alone]), strict=True)
        )
        judged += (fit, max(others))
        figures = (truth, found, error, fit, max(others))
        rows.append((draw, *(f"{value:.2f}" for value in figures), newton.passes))
    header = (
        "draw",
        "true a",
        "found",
        "standard error",
        "held out, nats",
        "best member",
        "passes",
    )
    show(f"{EXAMPLES_EACH} sampled answers of at most {TOKENS} tokens for each draw:")
    show(table(header, rows))
    show(f"Held out, all draws: {judged[0]:.0f} nats, the best members {judged[1]:.0f}.")
    return Result(inside, holds=passes <= MOST_PASSES and bool(judged[0] >= judged[1]))


def _reports(
    engine: InProcessEngine, examples: list[Job], weights: list[Floats], *, moments: bool
) -> list[dict[str, Any]]:
    """Score the examples with these weights, in one pass."""
    of_rows = tuple(tuple(each.tolist()) for each in weights)
    jobs = []
    for number, job in enumerate(examples):
        assert job.scoring is not None
        scoring = replace(job.scoring, report_id=str(number), weights=of_rows, moments=moments)
        jobs.append(replace(job, scoring=scoring, params={"max_tokens": 1, "prompt_logprobs": 0}))
    engine.run(jobs)
    return [engine.scores(str(number)) for number in range(len(jobs))]


def _scores(
    engine: InProcessEngine, examples: list[Job], weights: list[Floats]
) -> list[list[float]]:
    """Return `[examples][weights]`, in nats."""
    reports = _reports(engine, examples, weights, moments=False)
    return [[sum(tokens) for tokens in report["weights"]] for report in reports]


def _points(engine: InProcessEngine, examples: list[Job], thetas: list[Floats]) -> list[Point]:
    """Return what one pass over the examples says of each value."""
    reports = _reports(engine, examples, [FORMULA.weights(t) for t in thetas], moments=True)
    return [
        Point(
            theta,
            sum(sum(report["weights"][n]) for report in reports),
            *FORMULA.derivatives(
                np.sum([report["gradients"][n] for report in reports], axis=0),
                np.sum([report["hessians"][n] for report in reports], axis=0),
            ),
        )
        for n, theta in enumerate(thetas)
    ]
