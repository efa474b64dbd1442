"""Preemption before vLLM's loop runs, so that it never hits a gang in the middle of a step."""

from __future__ import annotations

import time

from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from composer.vllm.schedule.gang import lateness
from composer.vllm.schedule.gang_table import GangTable
from composer.vllm.schedule.kv_cache.kv_demand import KVDemand
from composer.vllm.schedule.step_budget import StepBudget


class Preemption:
    """Frees the KV blocks of what came last for what came first."""

    def __init__(self, gangs: GangTable, demand: KVDemand, scheduler: Scheduler) -> None:
        self._gangs = gangs
        self._demand = demand
        self._scheduler = scheduler

    def until_fits(self, step: StepBudget) -> bool:
        """Preempt, the latest first and gangs as a whole, until all that runs fits the KV caches.

        Return False if something was preempted.
        """
        running: list[Request] = self._scheduler.running
        if not self._gangs.late_scored() and self._demand.is_ample(running, step):
            return True
        fits = True
        while short := self._demand.short_models(running, step):
            # A gang that is scored from its first tokens on holds no blocks before its release,
            # and others may have been admitted to the same ones: it waits for the next step.
            if late := [gang for gang in self._gangs.late_scored() if gang.models & short]:
                late[-1].released = False
                continue
            users = [row for row in running if self._gangs.models_of(row) & short]
            if not users:
                break
            self._preempt(max(users, key=lateness))
            fits = False
        return fits

    def _preempt(self, victim: Request) -> None:
        """Preempt a request, or all rows of its gang that run."""
        scheduler = self._scheduler
        gang = self._gangs.of(victim)
        victims = [victim]
        if gang is not None:
            victims = [row for row in scheduler.running if row in gang.rows]
        now = time.monotonic()
        for row in reversed(victims):
            scheduler.running.remove(row)
            scheduler._preempt_request(row, now, drop_stale_output=scheduler.requires_kv_delivery)
