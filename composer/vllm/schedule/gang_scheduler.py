"""Gang scheduling: the rows of a composed request advance in the same step or not at all.

vLLM's scheduler decides everything else. It calls methods of its own for some decisions, and this
class overrides them for the rows of gangs:

* `_handle_blocked_waiting_request`: may this waiting request be admitted now? A gang is admitted as
  a whole or keeps its place in the line; others pass it for a while (`admission`, `reservation`).
* `_reserve_prefill_lookahead`: how many tokens may this request compute now? A row that is not
  released stops at its barrier, before its last known token or before the part of its prompt that
  is scored. When all rows have arrived they are released together, and from then on advance in
  lock-step: through what is scored in equal chunks, then token by token.
* `_get_local_prefix_cache_hit`: the prefix cache never carries a row past the barrier.
* `_preempt_request`, `finish_requests`, `_free_request`: what happens to one row happens to all.

Preemption must not hit a gang in the middle of a step, so blocks for all that will run are freed
before vLLM's own loop starts (`preemption`). A step without gangs runs vLLM's code alone.

Rows of auxiliary models are rows like others; only their KV blocks and adapter slots belong to
another model (`kv_pools`), and every limit is checked per model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.metrics.stats import SchedulerStats
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from composer.engine_plan import EnginePlan
from composer.errors import CompositionError
from composer.vllm.lifeline import obey_front_end
from composer.vllm.options import gang_patience_s
from composer.vllm.releases import refuse_request
from composer.vllm.schedule.admission import Admission
from composer.vllm.schedule.barrier import Barrier
from composer.vllm.schedule.counts import GangFigures, correct_stats
from composer.vllm.schedule.engine_models import engine_models
from composer.vllm.schedule.failed_requests import add_final_outputs, failed_requests
from composer.vllm.schedule.gang import (
    Gang,
    Slot,
    expand,
    model_of,
    refuse_row_tag,
    slot_of,
)
from composer.vllm.schedule.gang_table import GangTable
from composer.vllm.schedule.kv_cache.kv_demand import KVDemand
from composer.vllm.schedule.kv_cache.kv_pools import forget_prefixes
from composer.vllm.schedule.kv_cache.preemption import Preemption
from composer.vllm.schedule.limits import EngineLimits
from composer.vllm.schedule.reservation import Need
from composer.vllm.schedule.scored_shares import share_among_scored
from composer.vllm.schedule.step_budget import StepBudget
from composer.vllm.step_failures import Failures, failures_of

logger = init_logger(__name__)


class _GangScheduler(Scheduler):
    """Gang scheduling for both of vLLM's schedulers."""

    max_num_active_reqs: int
    lora_config: Any
    kv_cache_manager: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        models, self._pools = engine_models(self)
        if self._pools is not None:
            self.kv_cache_manager = self._pools
        self._slots_of_all_models = copy.copy(self.lora_config)  # vLLM counts adapters of all
        if self._slots_of_all_models:
            self._slots_of_all_models.max_loras = sum(m.capacity.adapters for m in models.values())
        self.gangs = GangTable()
        self.limits = EngineLimits(rows=self.max_num_active_reqs, models=models)
        self.admission = Admission(
            self.gangs,
            self.limits,
            gang_patience_s(self.vllm_config.additional_config),
            one_step_prefill=self.scheduler_config.long_prefill_token_threshold == 0,
        )
        self._barrier = Barrier(self.gangs, self)
        self._kv_demand = KVDemand(self.gangs, self.limits)
        self._preemption = Preemption(self.gangs, self._kv_demand, self)
        self._step: StepBudget | None = None  # while vLLM's loop runs over gangs
        self._figures = GangFigures()
        self._sent_figures = GangFigures()

    # ---- arrival

    def add_request(self, request: Request) -> None:
        continued = request.request_id in self.requests  # more input for a session
        super().add_request(request)
        try:
            gang = self._gang(request, continued)
        except (CompositionError, ValueError) as error:
            # The front end checks this too and answers 400. Here only this request may fail.
            logger.error("Refused request %s: %s", request.request_id, error)
            refuse_request(self, request.request_id, str(error))
            return
        if gang is None:
            return
        gang.arrived_s = self.admission.clock()
        self.gangs.add(gang)
        for row in gang.rows:
            self.requests[row.request_id] = row
            if self._pools is not None and model_of(row) is not None:
                self._pools.add(row)

    def _gang(self, request: Request, continued: bool) -> Gang | None:
        """Return the rows that compute a request, or None if it is plain.

        Raises:
            ValueError: it carries an internal argument that no front end writes.
            CompositionError: it could never run.
        """
        extra = request.sampling_params.extra_args if request.sampling_params else None
        if not extra:
            return None
        refuse_row_tag(extra)
        plan = EnginePlan.from_extra_args(extra)
        if plan is None:
            return None
        if request.prompt_token_ids is None or request.resumable or continued:
            raise ValueError("a composed request must bring its whole prompt, as token ids")
        max_tokens = self.limits.longest_answer(request, plan)
        return expand(request, plan, max_tokens, self.hash_block_size)

    # ---- one step

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        if self.gangs.by_leader:
            output = self._schedule_gangs(throttle_prefills)
        else:
            output = super().schedule(throttle_prefills)
        figures = self._figures
        figures.rows_running = len(self.running)
        figures.gangs_waiting = sum(not gang.admitted for gang in self.gangs.by_leader.values())
        if figures != self._sent_figures:
            self._sent_figures = replace(figures, waits=[*figures.waits])
            figures.attach(output)
        return output

    def _schedule_gangs(self, throttle_prefills: bool) -> SchedulerOutput:
        max_rows, base_slots = self.max_num_active_reqs, self.lora_config
        step = StepBudget(
            tokens=self.max_num_scheduled_tokens,
            rows=max_rows,
            adapter_slots={name: m.capacity.adapters for name, m in self.limits.models.items()},
        )
        self._barrier.recall()
        if self._pause_state is not PauseState.PAUSED_ALL:
            self._barrier.release()
        longest = self.scheduler_config.long_prefill_token_threshold or step.tokens
        share_among_scored(self.gangs, self._kv_demand, self.running, step, longest)
        fits = self._preemption.until_fits(step)
        self._barrier.queue(step, may_release=fits)  # in a step that preempts nobody joins
        # Tokens of the budget for every row in lock-step; prefills share the rest.
        step.reserved += sum(map(self._kv_demand.in_lock_step, self.running))
        if self.waiting or self.kv_holding_waiting:
            step.adapters = self._held_adapters()
        # vLLM's loop admits nobody once this number runs. Rows that join later keep their places.
        self.max_num_active_reqs = max_rows - step.absent if fits else 0
        self.lora_config = self._slots_of_all_models
        self.admission.begin_step()
        self._step = step
        try:
            output = super().schedule(throttle_prefills)
        finally:
            self._step = None
            self.max_num_active_reqs, self.lora_config = max_rows, base_slots
        self._barrier.check_lock_step(step, output)
        return output

    def _held_adapters(self) -> set[Slot]:
        """Return the adapters of all that runs or was admitted, scheduled in this step or not.

        vLLM counts the scheduled ones only, but a gang at the barrier will need its slots again.
        """
        held = {slot for row in self.running if (slot := slot_of(row)) is not None}
        admitted = (gang for gang in self.gangs.by_leader.values() if gang.admitted)
        return held.union(*(gang.adapters for gang in admitted))

    # ---- decisions that vLLM's loop asks for

    def _reserve_prefill_lookahead(
        self, request: Request, num_computed_tokens: int, num_new_tokens: int
    ) -> int:
        new: int = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        step = self._step
        if step is None:
            return new
        left = request.num_tokens + request.num_output_placeholders - num_computed_tokens
        gang = self.gangs.of(request)
        if gang is not None and not gang.released:
            new = min(new, left - gang.after_barrier, step.unreserved)
        elif gang is not None and gang.scored:
            new = min(new, gang.chunk)
            step.reserved -= new
        elif left > 1 and gang is None:
            new = min(new, step.unreserved)
        elif left == 1:
            step.reserved -= new
        step.tokens -= new
        return new

    def _get_local_prefix_cache_hit(self, request: Request, *limit: int | None) -> Any:
        hit = super()._get_local_prefix_cache_hit(request, *limit)
        gang = self.gangs.of(request)
        if gang is None or (gang.released and not gang.scored):
            return hit
        blocks, cached, boundary, diverged = hit
        kv = self.limits.models[model_of(request)].kv
        blocks, cached = kv.before_barrier(request, gang.after_barrier, blocks, cached)
        return blocks, cached, boundary, diverged

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        if request.request_id in self.grammar_compile_error_reqs:
            return False
        ready: bool = super()._handle_blocked_waiting_request(request)
        if self._step is None or not ready:
            return ready
        gang = self.gangs.of(request)
        if gang is None:
            return self._admit_plain(request, self._step)
        return gang.admitted or self._admit(gang, self._step)

    def _admit(self, gang: Gang, step: StepBudget) -> bool:
        """Admit a gang as a whole, or let it wait. Return whether its leader joins now."""
        occupied = len(self.running) + self.num_waiting_for_streaming_input
        if not self.admission.consider(gang, step, occupied):
            return False
        step.take_slots(gang.adapters)
        gang.admitted = True
        if gang.arrived_s is not None:
            self._figures.waited(self.admission.clock() - gang.arrived_s)
            gang.arrived_s = None
        (step.released if gang.released else self.gangs.joining).append(gang)
        joins = [row for row in gang.rows if gang.released or gang.joins_early(row)]
        for row in joins:
            if row is not gang.leader:
                self.kv_holding_waiting.add_request(row)
        step.absent += len(gang.rows) - len(joins)
        self.max_num_active_reqs = step.rows - step.absent
        return gang.leader in joins

    def _admit_plain(self, request: Request, step: StepBudget) -> bool:
        """Return whether a plain request may start, beside a gang that has a reservation."""
        slot = slot_of(request)
        adapters = frozenset[Slot]() if slot is None else frozenset({slot})
        if not step.has_slots(adapters):
            return False
        if (reservation := self.admission.reservation_before(request)) is not None:
            need = Need.of([request], adapters, self.limits, now=False)
            if not reservation.lets_pass(need):
                # The next in line has to wait as well. But a preempted request stands first in
                # line, whenever it arrived: end vLLM's loop only after the gang had its turn.
                if reservation.gang_had_turn and not adapters:
                    self.max_num_active_reqs = 0
                return False
            reservation.count(request, need)
        return step.take_slots(adapters)

    # ---- the end

    def _preempt_request(
        self, request: Request, timestamp: float, drop_stale_output: bool = False
    ) -> None:
        gang = self.gangs.of(request)
        if gang is not None and self._step is not None:
            raise RuntimeError(
                f"row {request.request_id} was preempted in the middle of a step; "
                "this is a bug, please report it"
            )
        super()._preempt_request(request, timestamp, drop_stale_output)
        if gang is None:
            return
        leader = gang.leader
        if request is not leader:
            self.waiting.remove_request(request)  # the leader waits for all
        if gang.admitted:
            self._figures.preemptions += 1
            gang.admitted = gang.released = False
            self.gangs.leave_barrier(gang)
            if leader.status is not RequestStatus.RUNNING and leader not in self.waiting:
                self.waiting.prepend_request(leader)

    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus
    ) -> list[Request]:
        finished: list[Request] = super().finish_requests(request_ids, finished_status)
        if self.gangs.by_row:
            finished = [row for row in finished if not self.gangs.is_companion(row.request_id)]
            self._end_companions()
        return finished

    def _free_request(self, request: Request, delay_free_blocks: bool = False) -> Any:
        self.gangs.note_end(request)
        return super()._free_request(request, delay_free_blocks)

    def _end_companions(self) -> None:
        """End the companions of leaders that have ended, whatever the reason was."""
        while self.gangs.ended:
            gang = self.gangs.ended.pop()
            self.admission.forget(gang)
            super().finish_requests(
                [row.request_id for row in gang.companions], RequestStatus.FINISHED_ABORTED
            )
            self.gangs.remove(gang)
            for row in gang.companions:
                if self._pools is not None and model_of(row) is not None:
                    self._pools.remove(row.request_id)

    # ---- results of a step

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        failures = failures_of(model_runner_output)
        failed = self._fail(failures, scheduler_output) if failures else []
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(
            scheduler_output, model_runner_output
        )
        add_final_outputs(outputs, failed)
        if self.gangs.by_row:
            for client in outputs.values():
                client.outputs = [
                    out for out in client.outputs if not self.gangs.is_companion(out.request_id)
                ]
            self._end_companions()
        return outputs

    def _fail(self, failures: Failures, output: SchedulerOutput) -> list[Request]:
        """End the requests that needed what a step could not load, before vLLM reads the step's
        tokens; return them.
        """
        names = failed_requests(self, self.gangs, failures, output)
        pools = {None: self.kv_cache_manager} if self._pools is None else self._pools.by_model
        for manager in pools.values():
            forget_prefixes(manager)
        return self.finish_requests(names, RequestStatus.FINISHED_ERROR)

    def make_stats(self, *args: Any, **kwargs: Any) -> SchedulerStats | None:
        stats: SchedulerStats | None = super().make_stats(*args, **kwargs)
        if stats is not None:
            correct_stats(stats, self, self.gangs)
        return stats


class AsyncGangScheduler(_GangScheduler, AsyncScheduler):
    """For async scheduling, vLLM's default where the platform supports it."""


class SyncGangScheduler(_GangScheduler, Scheduler):
    """For CPU, and for `async_scheduling=False`."""


def gang_scheduler(vllm_config: VllmConfig, **kwargs: Any) -> Scheduler:
    """Return the scheduler that `--scheduler-cls` names: its class depends on the engine's mode,
    which only vLLM knows."""
    asynchronous = vllm_config.scheduler_config.async_scheduling
    cls = AsyncGangScheduler if asynchronous else SyncGangScheduler
    obey_front_end()
    return cls(vllm_config=vllm_config, **kwargs)
