"""Texts scored by compositions of all kinds under memory pressure, against the oracle."""

from __future__ import annotations

import torch

import zoo
from bench.agreement import PRESSURE, count_mismatches, send_under_pressure
from bench.claim import Result
from bench.inprocess import InProcessEngine
from bench.measure import show, table
from bench.scoring import scored_job, worst_error
from composer.reference.oracle import Oracle

TEXTS = {"alone": 100, "with an auxiliary model": 100}


def measure() -> Result:
    """Return the largest error of a log-probability, in nats.

    The claim also needs that no text is lost, that nothing is left in the engine, that answers
    which follow a scored prompt are right, and that gangs were preempted.
    """
    torch.set_grad_enabled(False)
    small = {"small": (zoo.SMALL, zoo.SMALL_ADAPTERS)}
    oracle = Oracle(zoo.BASE, zoo.ADAPTERS, small)
    worst, rows, holds, preempted = 0.0, [], True, 0
    for seed, (name, count) in enumerate(TEXTS.items()):
        auxiliaries = small if seed else None
        engine = InProcessEngine(zoo.BASE, zoo.ADAPTERS, auxiliaries=auxiliaries, **PRESSURE)
        outcome = send_under_pressure(engine, seed, count, scored_job)
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
