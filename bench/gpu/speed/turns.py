"""Kinds of answers measured in turn, in every cell of the speed table."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any

from bench.gpu.budget import Budget
from bench.gpu.speed.cells import Cell, Run, row
from bench.gpu.speed.kinds import COMPOSED, PLAIN_ROWS
from bench.gpu.speed.roofline import bound_s
from bench.gpu.speed.workbench import Kind, Workbench
from bench.inprocess import InProcessEngine, Job
from bench.measure import settle
from bench.workload import prompts

WARM_UP_TOKENS = 4


def run(engine: InProcessEngine, jobs: Sequence[Job]) -> Run:
    """Answer all jobs at once, from an empty prefix cache."""
    engine.forget_prefixes()
    gc.collect()
    start = last = time.perf_counter()
    first, gaps = None, []
    for job in jobs:
        engine.add(job)
    while engine.engine.has_unfinished_requests():
        engine.step()
        now = time.perf_counter()
        if first is not None:
            gaps.append(now - last)
        elif _answering(engine):
            first = now - start
        last = now
    return Run(last - start, first if first is not None else last - start, gaps)


def measure(
    engine: InProcessEngine,
    bench: Workbench,
    kinds: Sequence[Kind],
    cells: Sequence[Cell],
    rounds: int,
    bytes_per_s: float,
    budget: Budget,
) -> list[dict[str, Any]]:
    """Measure every kind in each cell that the budget allows; return rows of the report.

    The kinds take turns, in every second round backwards, so that a drift of the machine's speed
    does not favour one.
    """
    table: list[dict[str, Any]] = []
    for cell in budget.take(cells):
        texts = prompts(cell.requests, cell.prompt, bench.config.vocabulary, seed=cell.requests)
        jobs = {kind.name: kind.jobs(texts, cell.answer) for kind in kinds}
        for kind in kinds:
            run(engine, kind.jobs(texts, min(WARM_UP_TOKENS, cell.answer)))
        settle()
        runs: dict[str, list[Run]] = {kind.name: [] for kind in kinds}
        for turn in range(rounds):
            if turn and budget.left_s <= 0:
                break
            for kind in kinds if turn % 2 == 0 else reversed(kinds):
                runs[kind.name].append(run(engine, jobs[kind.name]))
        plain = runs.get(PLAIN_ROWS)
        for kind in kinds:
            reads = kind.reads(bench.config, bench.small_config, cell.requests, cell.context)
            bound = bound_s(reads, bytes_per_s)
            against = plain if kind.name == COMPOSED else None
            table.append(row(kind.name, cell, runs[kind.name], bound, against))
    return table


def _answering(engine: InProcessEngine) -> bool:
    return any(request.num_output_tokens for request in engine.scheduler.requests.values()) or not (
        engine.engine.has_unfinished_requests()
    )
