"""Random requests under pressure, compared with the oracle."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from safetensors.torch import load_file

from bench.inprocess import InProcessEngine, Job
from composer.reference.mixture_oracle import mixed_mismatches
from composer.reference.oracle import TIE, Mismatch, Oracle, leaving
from composer.reference.switching_oracle import (
    LinearGate,
    gated,
    switched_mismatches,
    trigger_choices,
)

PRESSURE: dict[str, Any] = {
    "kv_blocks": 17,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
    "max_loras": 3,
    "max_model_len": 256,
}
"""Nothing fits: 64 tokens a step, a KV cache of 512 tokens, 8 rows, 3 adapters."""

ABORTS = 0.02  # chance per step

E = TypeVar("E", bound=InProcessEngine)


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that ran to its end, and its tokens."""

    job: Job
    answer: list[int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stream of requests has shown."""

    answered: tuple[Answered, ...]
    aborted: int
    lost: int  # neither aborted nor answered in full
    preempted_groups: int
    leftovers: tuple[str, ...]


def send_under_pressure(
    engine: E, seed: int, count: int, make_job: Callable[[random.Random, E], Job]
) -> Outcome:
    """Requests arrive in bursts while others run, and some are aborted at any time."""
    rng = random.Random(seed)
    waiting = [make_job(rng, engine) for _ in range(count)]
    preempted = count_preemptions(engine)
    jobs: dict[str, Job] = {}
    answers: dict[str, list[int]] = {}
    aborted: set[str] = set()
    while waiting or engine.engine.has_unfinished_requests():
        for _ in range(rng.choice([0, 0, 1, 3])):
            if waiting:
                job = waiting.pop(0)
                jobs[engine.add(job)] = job
        if (running := jobs.keys() - answers.keys() - aborted) and rng.random() < ABORTS:
            aborted.add(name := rng.choice(sorted(running)))
            engine.abort(name)
        for output in engine.step():
            if output.finished:
                answers[output.request_id] = list(output.outputs[0].token_ids)
    whole = [
        Answered(jobs[name], answer)
        for name, answer in answers.items()
        if name not in aborted and len(answer) == jobs[name].params["max_tokens"]
    ]
    lost = len(jobs) - len(aborted) - len(whole)
    return Outcome(tuple(whole), len(aborted), lost, preempted(), tuple(engine.leftovers()))


def count_preemptions(engine: InProcessEngine) -> Callable[[], int]:
    """Watches the scheduler from now on; call the result for the number of preempted groups."""
    scheduler = engine.scheduler
    preempt = scheduler._preempt_request
    leaders: list[str] = []

    def watched(request: object, *args: object, **kwargs: object) -> None:
        preempt(request, *args, **kwargs)
        name = request.request_id  # type: ignore[attr-defined]
        if name in scheduler.gangs.by_leader:
            leaders.append(name)

    scheduler._preempt_request = watched
    return lambda: len(leaders)


def count_mismatches(
    oracle: Oracle, jobs: Sequence[Job], answers: Sequence[Sequence[int]]
) -> tuple[int, int]:
    """Requests whose greedy answer differs from the oracle's, and near-ties that were allowed."""
    wrong = ties = 0
    for job, answer in zip(jobs, answers, strict=True):
        found = mismatches(oracle, job, answer)
        wrong += any(m.gap >= TIE for m in found)
        ties += sum(m.gap < TIE for m in found)
    return wrong, ties


def mismatches(oracle: Oracle, job: Job, answer: Sequence[int]) -> list[Mismatch]:
    """Where a greedy answer to any kind of request leaves the oracle's."""
    if job.mixture is not None:
        return mixed_mismatches(oracle, job.oracle_rows(), job.mixture, answer, job.filters)
    if job.switch is None:
        return oracle.mismatches(job.oracle_rows(), job.filters, answer)
    switch = job.switch
    names = [one.name if one is not None else None for one in switch.candidates]
    if switch.gate is None:
        choices = trigger_choices(len(names), switch.triggers, job.prompt, answer, switch.start)
        return switched_mismatches(oracle, job.prompt, answer, names, choices)
    tensors, classes = load_file(switch.gate), list(switch.classes)
    gate = LinearGate(tensors["weight"][classes], tensors["bias"][classes], switch.stickiness)
    result = gated(oracle, job.prompt, answer, names, gate, switch.start)
    found = leaving(result.logits, answer)
    # Where the gate could have chosen otherwise, everything after it may differ as well.
    close = min(result.margins) < TIE
    return [replace(one, gap=0.0) for one in found] if close else found
