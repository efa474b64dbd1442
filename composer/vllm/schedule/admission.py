"""Admission: which waiting gangs and plain requests may start in a step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

from vllm.v1.request import Request

from composer.vllm.schedule.gang import Gang, lateness, model_of
from composer.vllm.schedule.gang_table import GangTable
from composer.vllm.schedule.limits import EngineLimits
from composer.vllm.schedule.reservation import Need, Reservation
from composer.vllm.schedule.step_budget import StepBudget


class Admission:
    """Admits a gang as a whole, and keeps its capacity once it has waited beyond `patience_s`."""

    def __init__(
        self, gangs: GangTable, limits: EngineLimits, patience_s: float, *, one_step_prefill: bool
    ) -> None:
        """`one_step_prefill`: vLLM computes any prompt that the budget holds in one step."""
        self._gangs = gangs
        self._limits = limits
        self._one_step_prefill = one_step_prefill
        self.patience_s = patience_s
        self.clock: Callable[[], float] = time.monotonic
        self.reservation: Reservation | None = None
        """Of the first gang that waits beyond the patience."""

    def begin_step(self) -> None:
        if self.reservation is not None:
            self.reservation.begin_step()

    def consider(self, gang: Gang, step: StepBudget, occupied: int) -> bool:
        """Decide whether a waiting gang starts now, and return the decision.

        Release a gang that starts if one step computes all its tokens. Of a gang that does not fit,
        note when that was first so, and reserve its capacity once it has waited for the patience.

        Args:
            gang: a gang that is not admitted.
            step: the step in progress.
            occupied: requests that run.
        """
        reservation = self.reservation
        if reservation is not None and reservation.gang is gang:
            reservation.gang_had_turn = True
        if any(row.num_stale_output_tokens for row in gang.rows):
            return False  # stale: output from before a preemption is still on its way
        if self._fits(gang, step, occupied):
            self.forget(gang)
            return True
        if gang.refused_s is None:
            gang.refused_s = self.clock()
        if reservation is None and self.clock() - gang.refused_s >= self.patience_s:
            self.reservation = Reservation(gang, self._limits, self._gangs.is_admitted)
        return False

    def forget(self, gang: Gang) -> None:
        """Reserve nothing for a gang that starts, or has ended."""
        if self.reservation is not None and self.reservation.gang is gang:
            self.reservation = None

    def reservation_before(self, request: Request) -> Reservation | None:
        """Return the reservation of a gang that stands in line before a request."""
        reservation = self.reservation
        if reservation is None or lateness(request) <= lateness(reservation.gang.leader):
            return None
        return reservation

    def _fits(self, gang: Gang, step: StepBudget, occupied: int) -> bool:
        """Return whether there is room for a gang, beside the gang that has a reservation."""
        if occupied + step.absent + len(gang.rows) > step.rows:
            return False
        if not step.has_slots(gang.adapters):
            return False
        # Assume that a gang with as many tokens as one that did not fit, or more, does not fit
        # either. Shared prefixes may make that wrong, but where many gangs wait, looking up the
        # prefixes of all of them would take longer than the step.
        if step.refuses(gang):
            return False
        reservation = self.reservation_before(gang.leader)
        need = Need.of(gang.rows, gang.adapters, self._limits, now=False)
        if reservation is not None and not reservation.lets_pass(need):
            return False
        if short := self._release_or_find_short(gang, step):
            step.refuse(gang, short)
            return False
        if reservation is not None:
            reservation.count(gang.leader, need)
        return True

    def _release_or_find_short(self, gang: Gang, step: StepBudget) -> frozenset[str | None]:
        """Return the models whose KV caches do not hold the tokens of the gang's rows now.

        Release the gang if there are none and one step computes all tokens.
        """
        rows: dict[str | None, list[Request]] = defaultdict(list)
        for row in gang.rows:
            rows[model_of(row)].append(row)
        kv = {model: self._limits.models[model].kv for model in rows}
        # Hits in the prefix cache are not counted on here: they may be evicted within the step.
        gang.released = (
            not gang.one_by_one
            and not gang.scored
            and sum(row.num_tokens for row in gang.rows) <= step.unreserved
            and all(kv[model].holds(waiting) for model, waiting in rows.items())
            and self._one_step_prefill
        )
        if gang.released:
            return frozenset()
        return frozenset(
            model
            for model, waiting in rows.items()
            if kv[model].wanted_to_admit(waiting, gang.after_barrier) > kv[model].free_for_admission
        )
