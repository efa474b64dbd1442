"""Random requests under memory pressure get the oracle's answers and leave nothing behind."""

from __future__ import annotations

from contextlib import nullcontext

import torch

import zoo
from bench.agreement import PRESSURE, count_mismatches, send_under_pressure
from bench.claim import Result
from bench.inprocess import InProcessEngine
from bench.measure import show, table
from bench.streams import without_streams
from bench.workload import random_job
from composer.reference.oracle import Oracle

REQUESTS = 150  # in each mode


def measure() -> Result:
    """Return the number of mismatching and lost requests, plus objects left in the engine."""
    torch.set_grad_enabled(False)
    oracle = Oracle(zoo.BASE, zoo.ADAPTERS)
    bad, rows, pressed = 0, [], True
    for seed, asynchronous in enumerate((False, True)):
        streams = asynchronous and not torch.cuda.is_available()
        with without_streams() if streams else nullcontext():
            engine = InProcessEngine(zoo.BASE, zoo.ADAPTERS, asynchronous=asynchronous, **PRESSURE)
            outcome = send_under_pressure(engine, seed, REQUESTS, random_job)
        jobs = [answered.job for answered in outcome.answered]
        answers = [answered.answer for answered in outcome.answered]
        wrong, ties = count_mismatches(oracle, jobs, answers)
        bad += wrong + outcome.lost + len(outcome.leftovers)
        pressed &= outcome.preempted_gangs > 0
        tokens = sum(map(len, answers))
        mode = "async" if asynchronous else "sync"
        numbers = (len(jobs), outcome.aborted, tokens, wrong, ties, outcome.preempted_gangs)
        rows.append((mode, *numbers, outcome.lost, len(outcome.leftovers)))
        for leftover in outcome.leftovers:
            show(f"left behind ({mode}): {leftover}")
    header = ("scheduling", "answered", "aborted", "tokens", "mismatches", "near-ties")
    show(table((*header, "preempted gangs", "lost", "left behind"), rows))
    if not pressed:
        show("No gang was preempted, so this run did not test memory pressure.")
    return Result(bad, holds=pressed)
