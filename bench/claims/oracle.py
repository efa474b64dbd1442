"""Random requests under pressure answer as the oracle does, and leave nothing behind."""

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
    """Value: mismatching and lost requests, plus things left in the engine."""
    torch.set_grad_enabled(False)
    oracle = Oracle(zoo.BASE, zoo.ADAPTERS)
    bad, rows, pressed = 0, [], True
    for seed, asynchronous in enumerate((False, True)):
        streams = asynchronous and not torch.cuda.is_available()
        with without_streams() if streams else nullcontext():
            engine = InProcessEngine(zoo.BASE, zoo.ADAPTERS, asynchronous=asynchronous, **PRESSURE)
            found = send_under_pressure(engine, seed, REQUESTS, random_job)
        jobs = [one.job for one in found.answered]
        wrong, ties = count_mismatches(oracle, jobs, [one.answer for one in found.answered])
        bad += wrong + found.lost + len(found.leftovers)
        pressed &= found.preempted_groups > 0
        tokens = sum(len(one.answer) for one in found.answered)
        mode = "async" if asynchronous else "sync"
        numbers = (len(jobs), found.aborted, tokens, wrong, ties, found.preempted_groups)
        rows.append((mode, *numbers, found.lost, len(found.leftovers)))
        for leftover in found.leftovers:
            show(f"left behind ({mode}): {leftover}")
    header = ("scheduling", "answered", "aborted", "tokens", "mismatches", "near-ties")
    show(table((*header, "preempted groups", "lost", "left behind"), rows))
    if not pressed:
        show("No group was preempted: this was no test under pressure.")
    return Result(bad, holds=pressed)
