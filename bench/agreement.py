"""Random requests under memory pressure, compared with the oracle."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file

from bench.inprocess import InProcessEngine, Job, prompt_scores
from composer.engine_plan import Switch
from composer.reference.mixture_oracle import mixed_mismatches
from composer.reference.oracle import TIE, Mismatch, Oracle, greedy_mismatches
from composer.reference.switching_oracle import (
    LinearGate,
    gated,
    trigger_choices,
)

PRESSURE: dict[str, Any] = {
    "kv_blocks": 17,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
    "max_loras": 3,
    "max_model_len": 256,
}
"""Options under which requests compete: 64 tokens per step, 512 tokens of KV cache, 8 rows, 3
adapters."""

ABORTS = 0.02  # probability per step

E = TypeVar("E", bound=InProcessEngine)


@dataclass(frozen=True, slots=True)
class Answered:
    """A completed request and its tokens."""

    job: Job
    answer: list[int]
    scores: list[float | None]
    """Log-probability of each token of the prompt, None for those without; empty if not asked."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results of a stream of requests."""

    answered: tuple[Answered, ...]
    aborted: int
    lost: int  # neither aborted nor answered completely
    preempted_gangs: int
    leftovers: tuple[str, ...]


def send_under_pressure(
    engine: E, seed: int, count: int, make_job: Callable[[random.Random, E], Job]
) -> Outcome:
    """Send requests in bursts while others run, and abort some of them."""
    rng = random.Random(seed)
    waiting = [make_job(rng, engine) for _ in range(count)]
    preempted = count_preemptions(engine)
    jobs: dict[str, Job] = {}
    answers: dict[str, list[int]] = {}
    scores: dict[str, list[float | None]] = {}
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
                scores[output.request_id] = prompt_scores(output)
    answered = [
        Answered(jobs[name], answer, scores[name])
        for name, answer in answers.items()
        if name not in aborted and len(answer) == jobs[name].params["max_tokens"]
    ]
    lost = len(jobs) - len(aborted) - len(answered)
    return Outcome(tuple(answered), len(aborted), lost, preempted(), tuple(engine.leftovers()))


def count_preemptions(engine: InProcessEngine) -> Callable[[], int]:
    """Watch the scheduler from now on; the result returns the number of preempted gangs."""
    scheduler = engine.scheduler
    preempt = scheduler._preempt_request
    leaders: list[str] = []

    def watch(request: object, *args: object, **kwargs: object) -> None:
        preempt(request, *args, **kwargs)
        name = request.request_id  # type: ignore[attr-defined]
        if name in scheduler.gangs.by_leader:
            leaders.append(name)

    scheduler._preempt_request = watch
    return lambda: len(leaders)


def count_mismatches(
    oracle: Oracle, jobs: Sequence[Job], answers: Sequence[Sequence[int]]
) -> tuple[int, int]:
    """Count requests whose greedy answer differs from the oracle's, and allowed near-ties."""
    wrong = ties = 0
    for job, answer in zip(jobs, answers, strict=True):
        differing = mismatches(oracle, job, answer)
        wrong += any(m.gap >= TIE for m in differing)
        ties += sum(m.gap < TIE for m in differing)
    return wrong, ties


def mismatches(oracle: Oracle, job: Job, answer: Sequence[int]) -> list[Mismatch]:
    """Return where a greedy answer to any kind of request differs from the oracle's."""
    if job.mixture is not None:
        return mixed_mismatches(oracle, job.oracle_rows(), job.mixture, answer, job.filters)
    if job.switch is None:
        return oracle.mismatches(job.oracle_rows(), job.filters, answer)
    # A scored part of the prompt was computed as the beginning of the answer.
    prompt = job.prompt[: len(job.prompt) - job.scored_tokens]
    text = job.prompt[len(prompt) :]
    logits, sure = switched(oracle, job.switch, prompt, (*text, *answer))
    differing = greedy_mismatches(logits[len(text) :], answer)
    return [replace(m, gap=0.0) if m.position + len(text) >= sure else m for m in differing]


def switched(
    oracle: Oracle, switch: Switch, prompt: Sequence[int], answer: Sequence[int]
) -> tuple[torch.Tensor, int]:
    """Compute an answer whose adapters a switch chooses.

    Returns:
        logits `[len(answer) + 1, V]` float32 before and after each token, and how many of these
        rows are sure: before one, the gate nearly chose otherwise, and all from there may differ.
    """
    names = [adapter.name if adapter is not None else None for adapter in switch.candidates]
    if switch.gate is None:
        choices = trigger_choices(len(names), switch.triggers, prompt, answer, switch.start)
        adapters = [names[choice] for choice in choices]
        return oracle.switched(prompt, answer, adapters)[0], len(answer) + 1
    tensors, classes = load_file(switch.gate), list(switch.classes)
    gate = LinearGate(tensors["weight"][classes], tensors["bias"][classes], switch.stickiness)
    result = gated(oracle, prompt, answer, names, gate, switch.start)
    close = [margin < TIE for margin in result.margins[len(prompt) - 1 :]]
    return result.logits, close.index(True) if True in close else len(close)
