"""What the scheduler counts for operators: gangs, rows, and whose adapters run."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request, RequestStatus

from composer.vllm.schedule.gang import Gang

BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Upper bounds of the histogram of waits; the last bucket has none."""

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
        """A gang was admitted for the first time, so long after it had arrived."""
        self.waits[bisect_left(BUCKETS_S, seconds)] += 1
        self.wait_sum_s += seconds

    def as_dict(self) -> dict[str, Any]:
        """Plain values; see `ComposerWorker.composer_stats`."""
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
        """Send the figures to the workers, which the front end can ask."""
        setattr(output, _ATTRIBUTE, self.as_dict())


def figures_of(output: SchedulerOutput) -> dict[str, Any] | None:
    """The figures that came with a step; None where they have not changed."""
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
        groups: Collection[Gang],
    ) -> ClientCounts:
        """From all unfinished rows, those in the batch, and those passed over."""
        companions = sum(len(group.rows) - 1 for group in groups)
        admitted = [group for group in groups if group.admitted]
        rows = sum(r.status is RequestStatus.RUNNING for group in admitted for r in group.rows)
        run = len(running) - rows + len(admitted)
        waiting = {id(group.leader) for group in groups if not group.admitted}
        of_groups = {id(row) for group in groups for row in group.rows}
        late = sum(id(row) not in of_groups or id(row) in waiting for row in deferred)
        return ClientCounts(run, len(requests) - companions - run - late, late)


def aliases(requests: Iterable[Request], groups: Iterable[Gang]) -> dict[str, int]:
    """How many of these plain requests and groups use each adapter, by the name that people use."""
    found: Counter[str] = Counter()
    for request in requests:
        if request.lora_request is not None:
            found[alias_of(request.lora_request.lora_name)] += 1
    for group in groups:
        found.update({alias_of(name) for name in group.adapter_names})
    return dict(found)


def alias_of(name: str) -> str:
    """The engine's name of an adapter without the digest of its content."""
    return _ENGINE_NAME.sub("", name)
