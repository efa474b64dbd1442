"""Figures for operators: gangs, rows, and the adapters that run."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.metrics.stats import SchedulerStats
from vllm.v1.request import Request, RequestStatus

from composer.vllm.schedule.gang import Gang
from composer.vllm.schedule.gang_table import GangTable

BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Upper bounds of the histogram of waits; one more bucket has no bound."""

_ATTRIBUTE = "composer_stats"
_ENGINE_NAME = re.compile(r"@[0-9a-f]{12}\Z")


@dataclass(slots=True)
class GangFigures:
    """Totals since the start, and the present state of the engine."""

    waits: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    wait_sum_s: float = 0.0
    preemptions: int = 0
    rows_running: int = 0
    gangs_waiting: int = 0

    def waited(self, seconds: float) -> None:
        """Count a gang that was admitted for the first time, so long after its arrival."""
        self.waits[bisect_left(BUCKETS_S, seconds)] += 1
        self.wait_sum_s += seconds

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; see `ComposerWorker.composer_stats`."""
        bounds = [*map(str, BUCKETS_S), "+Inf"]
        return {
            "gang_waits": {
                "count": sum(self.waits),
                "sum_s": self.wait_sum_s,
                "buckets": dict(zip(bounds, accumulate(self.waits), strict=True)),
            },
            "gang_preemptions": self.preemptions,
            "rows_running": self.rows_running,
            "gangs_waiting": self.gangs_waiting,
        }

    def attach(self, output: SchedulerOutput) -> None:
        """Send the figures to the workers, which answer the front end."""
        setattr(output, _ATTRIBUTE, self.as_dict())


def figures_of(output: SchedulerOutput) -> dict[str, Any] | None:
    """Return the figures that came with a step; None if they have not changed."""
    figures: dict[str, Any] | None = getattr(output, _ATTRIBUTE, None)
    return figures


@dataclass(frozen=True, slots=True)
class ClientCounts:
    """Requests that clients sent, however many rows compute each of them."""

    running: int
    waiting: int
    deferred: int  # of those that wait: passed over in the last step

    @staticmethod
    def of(
        requests: Collection[Request],
        running: Collection[Request],
        deferred: Iterable[Request],
        gangs: Collection[Gang],
    ) -> ClientCounts:
        """Count from all unfinished rows, those in the batch, and those passed over."""
        companions = sum(len(gang.companions) for gang in gangs)
        admitted = [gang for gang in gangs if gang.admitted]
        rows = sum(row.status is RequestStatus.RUNNING for gang in admitted for row in gang.rows)
        run = len(running) - rows + len(admitted)
        waiting = {id(gang.leader) for gang in gangs if not gang.admitted}
        of_gangs = {id(row) for gang in gangs for row in gang.rows}
        late = sum(id(row) not in of_gangs or id(row) in waiting for row in deferred)
        return ClientCounts(run, len(requests) - companions - run - late, late)


def aliases(requests: Iterable[Request], gangs: Iterable[Gang]) -> dict[str, int]:
    """Count how many of these plain requests and gangs use each adapter, by its alias."""
    users: Counter[str] = Counter()
    for request in requests:
        if request.lora_request is not None:
            users[alias_of(request.lora_request.lora_name)] += 1
    for gang in gangs:
        users.update({alias_of(name) for name in gang.adapter_names})
    return dict(users)


def alias_of(name: str) -> str:
    """Return the engine's name of an adapter without the digest of its content."""
    return _ENGINE_NAME.sub("", name)


def correct_stats(stats: SchedulerStats, scheduler: Scheduler, gangs: GangTable) -> None:
    """Let vLLM's figures count requests that clients sent, and call adapters as clients do."""
    present = gangs.by_leader.values()
    if present:
        counts = ClientCounts.of(
            scheduler.requests.values(), scheduler.running, scheduler.deferred_waiting, present
        )
        stats.num_running_reqs = counts.running
        stats.num_waiting_reqs = counts.waiting
        stats.num_skipped_waiting_reqs = counts.deferred
    if scheduler.lora_config is not None:
        stats.running_lora_adapters = aliases(
            (row for row in scheduler.running if gangs.of(row) is None),
            (gang for gang in present if gang.admitted),
        )
        stats.waiting_lora_adapters = aliases(
            (row for row in scheduler.waiting if gangs.of(row) is None),
            (gang for gang in present if not gang.admitted),
        )
