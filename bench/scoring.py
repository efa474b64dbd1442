"""Random texts scored by random compositions, and what the oracle says of them."""

from __future__ import annotations

import random
from dataclasses import replace

import torch

from bench.agreement import switched
from bench.inprocess import BLOCK_TOKENS, InProcessEngine, Job
from bench.workload import random_job
from composer.engine_plan import Row, Scoring
from composer.filters import FilterKind
from composer.reference.mixture_oracle import mixed
from composer.reference.oracle import Oracle

VOCABULARY = range(10, 500)  # of random texts
BLOCKS, MOST_ANSWER = 15, 4


def scored_job(rng: random.Random, engine: InProcessEngine) -> Job:
    """Return a request of any kind that can be scored, for a text after its prompts or, if all
    members read the same, for the whole prompt."""
    while (job := random_job(rng, engine)).switch is None and job.rows is None:
        pass
    # Together the rows fit 15 blocks of 32 tokens, or the engine would shorten the answer.
    rows = job.rows or (Row(1.0),)
    longest = max(len(row.prompt_token_ids or job.prompt) for row in rows)
    room = BLOCKS // len(rows) * BLOCK_TOKENS - longest - MOST_ANSWER
    text = tuple(rng.choices(VOCABULARY, k=min(rng.choice([1, 2, 31, 32, 33, 60]), room)))
    shared = all(row.prompt_token_ids is None for row in rows)
    whole = shared and rng.random() < 0.5
    rows = tuple(
        row
        if row.prompt_token_ids is None
        else replace(row, prompt_token_ids=(*row.prompt_token_ids, *text))
        for row in rows
    )
    params = {"max_tokens": rng.choice([1, 1, MOST_ANSWER]), "prompt_logprobs": 0}
    scoring = None if whole else Scoring(len(text), f"scores of {rng.random()}")
    job = replace(job, prompt=(*job.prompt, *text), params=params, scoring=scoring)
    return job if job.switch is not None else replace(job, rows=rows)


def scored_switch(rng: random.Random, engine: InProcessEngine) -> Job:
    """Return a request to a gate or a sequence router, for a text after its prompt or the whole."""
    while (job := scored_job(rng, engine)).switch is None:
        pass
    return job


def oracle_scores(oracle: Oracle, job: Job) -> torch.Tensor:
    """Return the log-probabilities of the scored tokens, `[scored]` float64; minus infinity where a
    filter drops a token. After a gate's near-tie there are no more: the rest may differ."""
    log_probs = oracle_log_probs(oracle, job)
    text = torch.tensor(scored_text(job)[: len(log_probs)]).unsqueeze(1)
    return log_probs.gather(1, text).squeeze(1)


def scored_text(job: Job) -> tuple[int, ...]:
    """Return the tokens that a request scores."""
    return job.prompt[len(job.prompt) - job.scored_tokens :]


def oracle_log_probs(oracle: Oracle, job: Job) -> torch.Tensor:
    """Return the log-probabilities of all tokens in front of each scored one, `[scored, V]`
    float64; fewer after a gate's near-tie."""
    text = scored_text(job)
    scored = len(text)
    rows = [
        replace(row, prompt=row.prompt[: len(row.prompt) - scored]) for row in job.oracle_rows()
    ]
    if job.switch is not None:
        z, sure = switched(oracle, job.switch, rows[0].prompt, text)
        z = z[: sure + 1]
    elif job.mixture is not None:
        z, _ = mixed(oracle, rows, job.mixture, text, job.filters)
    else:
        z = oracle.composed(rows, job.filters, text, job.log_softmax)
    return z[:-1].double().log_softmax(1)


def worst_error(oracle: Oracle, job: Job, scores: list[float | None]) -> float:
    """Return the largest difference, in nats, between scores and the oracle's; infinity if a filter
    drops a token of one and not of the other."""
    expected = oracle_scores(oracle, job).tolist()
    computed = scores[len(scores) - job.scored_tokens :][: len(expected)]
    errors = [0.0]
    for mine, its in zip(computed, expected, strict=True):
        assert mine is not None
        dropped = mine < -1000, its == float("-inf")
        if any(dropped) and all(f.kind is not FilterKind.SOFT_TOP_K for f in job.filters):
            errors.append(0.0 if all(dropped) else float("inf"))
        else:
            errors.append(abs(mine - its))
    return max(errors)
