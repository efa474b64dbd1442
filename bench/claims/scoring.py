"""Texts scored by compositions of all kinds under memory pressure, against the oracle."""

from __future__ import annotations

from typing import Any

import torch

import zoo
from bench.agreement import PRESSURE, count_mismatches, send_under_pressure
from bench.claim import Result
from bench.inprocess import InProcessEngine
from bench.measure import show, table
from bench.scoring import scored_job, scored_switch, worst_error
from composer.reference.oracle import Oracle

SMALL = {"small": (zoo.SMALL, zoo.SMALL_ADAPTERS)}
RUNS: tuple[tuple[str, int, Any, Any], ...] = (
    ("alone", 80, None, scored_job),
    ("with an auxiliary model", 80, SMALL, scored_job),
    ("gates and sequences", 40, None, scored_switch),
)
"""Name, number of texts, auxiliary models, and what draws the requests."""


def measure() -> Result:
    """Return the largest error of a log-probability, in nats.

    The claim also needs that no text is lost, that nothing is left in the engine, that answers
    which follow a scored prompt are right, and that gangs were preempted.
    """
    torch.set_grad_enabled(False)
    oracle = Oracle(zoo.BASE, zoo.ADAPTERS, SMALL)
    worst, rows, holds, preempted = 0.0, [], True, 0
    for seed, (name, count, auxiliaries, make_job) in enumerate(RUNS):
        engine = InProcessEngine(zoo.BASE, zoo.ADAPTERS, auxiliaries=auxiliaries, **PRESSURE)
        outcome = send_under_pressure(engine, seed, count, make_job)
        errors = [worst_error(oracle, a.job, a.scores) for a in outcome.answered]
        jobs = [a.job for a in outcome.answered]
        wrong, _ = count_mismatches(oracle, jobs, [a.answer for a in outcome.answered])
        worst = max(worst, *errors)
        preempted += outcome.preempted_gangs
        holds &= not (wrong or outcome.lost or outcome.leftovers)
        numbers = (len(errors), outcome.aborted, f"{max(errors):.2e}", wrong, outcome.lost)
        rows.append((name, *numbers, len(outcome.leftovers), outcome.preempted_gangs))
    header = ("", "texts", "aborted", "largest error, nats", "wrong answers after them")
    show(table((*header, "lost", "left behind", "preempted gangs"), rows))
    if not preempted:
        show("No gang was preempted, so this run did not test memory pressure.")
    return Result(worst, holds=holds and preempted > 0)
