"""Gang scheduling: the rows of a composed request advance in the same step or not at all.

vLLM's scheduler decides everything else. It asks itself questions through methods, and this class
answers some of them differently for the rows of groups:

* `_handle_blocked_waiting_request`: may this waiting request be admitted now? A group is admitted
  as a whole or keeps its place in the line; others pass it for a while (`reservation`).
* `_reserve_prefill_lookahead`: how many tokens may this request compute now? A row that was not
  released stops one token short of its last known one: the barrier. When all rows have arrived
  they are released together, and from then on decode in lock-step.
* `_get_local_prefix_cache_hit`: the prefix cache never carries a row past the barrier.
* `_preempt_request`, `finish_requests`, `_free_request`: what happens to one row happens to all.

Preemption must not meet a group half-way through a step, so room for all that will run is made
before vLLM's own loop starts (`_make_room`). A step without groups runs vLLM's code alone.

Rows of auxiliary models are rows like others; only their KV blocks and adapter slots are of another
model (`pools`), and every question about room is asked per model.
"""

from __future__ import annotations

import copy
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from vllm.config import ModelConfig, VllmConfig
from vllm.logger import init_logger
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.metrics.stats import SchedulerStats
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from composer.capacity import ModelCapacity
from composer.engine_plan import EnginePlan
from composer.errors import CompositionError
from composer.vllm.auxiliary.config import kv_cache, model_config
from composer.vllm.auxiliary.spec import from_additional_config
from composer.vllm.compat import check_engine
from composer.vllm.lifeline import obey_front_end
from composer.vllm.options import gang_patience_s
from composer.vllm.schedule.counts import ClientCounts, GangFigures, aliases
from composer.vllm.schedule.gang import (
    Gang,
    Slot,
    expand,
    model_of,
    refuse_row_tag,
    slot_of,
    tokens_left,
)
from composer.vllm.schedule.kv_blocks import KVBlocks
from composer.vllm.schedule.kv_pools import RoutedKVCache, auxiliary_pool
from composer.vllm.schedule.limits import GroupLimits, ModelLimits
from composer.vllm.schedule.reservation import Need, Reservation
from composer.vllm.schedule.step_budget import Step
from composer.vllm.step_failures import Failures, failures_of

logger = init_logger(__name__)

_BASE: frozenset[str | None] = frozenset({None})


class _Gangs(Scheduler):
    """The group logic, for both of vLLM's schedulers."""

    max_num_active_reqs: int
    lora_config: Any
    kv_cache_manager: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_engine(self.vllm_config)
        slots = self.lora_config.max_loras if self.lora_config else 0
        self._models: dict[str | None, ModelLimits] = {
            None: self._limits_of(self.kv_cache_manager, self.vllm_config.model_config, slots)
        }
        self._all_slots = self.lora_config  # for vLLM, which counts adapters of all models together
        self._pools = self._add_auxiliaries()
        self._limits = GroupLimits(rows=self.max_num_active_reqs, models=self._models)
        self._groups: dict[str, Gang] = {}  # leader's request id -> its group
        self._group_of: dict[str, Gang] = {}  # every row's request id -> its group
        self._joining: list[Gang] = []  # admitted, not released yet
        self._ended: list[Gang] = []  # the leader is gone, its companions not yet
        self._step: Step | None = None  # set while vLLM's loop runs over groups
        self._patience_s = gang_patience_s(self.vllm_config.additional_config)
        self._clock: Callable[[], float] = time.monotonic
        self._kept: Reservation | None = None  # of the first gang that waits beyond its patience
        self._figures = GangFigures()
        self._told = GangFigures()  # what the workers know

    def _add_auxiliaries(self) -> RoutedKVCache | None:
        """A block pool for every auxiliary model; None if there are none.

        Raises:
            ValueError: one does not go together with the engine or the base model.
        """
        managers = {}
        for one in from_additional_config(self.vllm_config.additional_config):
            own = model_config(self.vllm_config, one)
            manager = auxiliary_pool(self, kv_cache(self.vllm_config, one, own), own.max_model_len)
            managers[one.name] = manager
            limits = self._models[one.name] = self._limits_of(manager, own, one.max_loras)
            logger.info("Auxiliary model %s: %d KV cache blocks", one.name, limits.room.capacity)
        if not managers:
            return None
        if self.lora_config is not None:
            self._all_slots = copy.copy(self.lora_config)
            self._all_slots.max_loras = sum(limits.adapters for limits in self._models.values())
        self.kv_cache_manager = RoutedKVCache(self.kv_cache_manager, managers)
        return self.kv_cache_manager

    def _limits_of(self, manager: Any, model: ModelConfig, slots: int) -> ModelLimits:
        room = KVBlocks(manager, self.vllm_config, self.block_size)
        capacity = ModelCapacity(model.max_model_len, slots, room.capacity, room.block_tokens)
        return ModelLimits(capacity, room, model.get_vocab_size())

    # ---- arrival

    def add_request(self, request: Request) -> None:
        continued = request.request_id in self.requests  # more input for a session
        super().add_request(request)
        try:
            group = self._group(request, continued)
        except (CompositionError, ValueError) as error:
            # The front end checks this too and answers 400. Here only the one request may fail.
            logger.error("Refused request %s: %s", request.request_id, error)
            self.grammar_compile_error_reqs.add(request.request_id)
            return
        if group is None:
            return
        group.arrived_s = self._clock()
        self._groups[request.request_id] = group
        for row in group.rows:
            self._group_of[row.request_id] = group
            self.requests[row.request_id] = row
            if self._pools is not None and model_of(row) is not None:
                self._pools.add(row)

    def _group(self, request: Request, continued: bool) -> Gang | None:
        """The rows that compute a request, or None if it is plain.

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
        longest = self._limits.longest_answer(request, plan)
        return expand(request, plan, longest, self.hash_block_size)

    # ---- one step

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        if self._groups:
            output = self._schedule_groups(throttle_prefills)
        else:
            output = super().schedule(throttle_prefills)
        self._figures.rows_running = len(self.running)
        self._figures.gangs_waiting = sum(not group.admitted for group in self._groups.values())
        if self._figures != self._told:
            self._told = replace(self._figures, waits=[*self._figures.waits])
            self._figures.attach(output)
        return output

    def _schedule_groups(self, throttle_prefills: bool) -> SchedulerOutput:
        limit, base_slots = self.max_num_active_reqs, self.lora_config
        step = Step(
            budget=self.max_num_scheduled_tokens,
            slots=limit,
            adapter_slots={model: limits.adapters for model, limits in self._models.items()},
            throttled=throttle_prefills,
        )
        self._recall()
        self._release(step)
        roomy = self._make_room(step)
        if not roomy:  # as in vLLM itself, nobody joins in a step that preempts
            for group in self._joining:
                group.released = False
        self._queue_unjoined(step)
        self._reserve_decodes(step)
        if self.waiting or self.kv_holding_waiting:
            step.adapters = self._held_adapters()
        # vLLM's loop admits nobody once this number runs. Rows that join later keep their slots.
        self.max_num_active_reqs = limit - step.absent if roomy else 0
        self.lora_config = self._all_slots
        if self._kept is not None:
            self._kept.begin_step()
        self._step = step
        try:
            output = super().schedule(throttle_prefills)
        finally:
            self._step = None
            self.max_num_active_reqs, self.lora_config = limit, base_slots
        self._check_lock_step(step, output)
        return output

    def _recall(self) -> None:
        """Take back from vLLM's queues the rows that could not join in the last step."""
        for group in self._joining:
            for row in group.unjoined():
                for queue in (self.kv_holding_waiting, self.waiting):
                    if row in queue:
                        queue.remove_request(row)
                self.deferred_waiting.discard(row)

    def _release(self, step: Step) -> None:
        """Release the groups whose rows have all arrived at the barrier.

        Not in a step in which vLLM may hold back some rows and run others.
        """
        if step.throttled or self._pause_state is PauseState.PAUSED_ALL:
            return
        for group in self._joining:
            group.released = group.at_barrier()

    def _make_room(self, step: Step) -> bool:
        """Preempt, the latest first and groups as a whole, until all that runs fits the KV caches.

        Returns False if something was preempted.
        """
        if all(self._is_ample(model, step) for model in self._models):
            return True
        roomy = True
        while short := self._short_of_blocks(step):
            users = [row for row in self.running if self._models_of(row) & short]
            if not users:
                break
            victim = max(users, key=self._lateness)
            group = self._group_of.get(victim.request_id)
            victims = [victim] if group is None else [r for r in self.running if r in group.rows]
            now = time.monotonic()
            for row in reversed(victims):
                self.running.remove(row)
                self._preempt_request(row, now, drop_stale_output=self.requires_kv_delivery)
            roomy = False
        return roomy

    def _lateness(self, row: Request) -> tuple[int, float]:
        """vLLM's order of preemption under its priority policy; under first come, first served
        all priorities are equal."""
        return (row.priority, row.arrival_time)

    def _models_of(self, row: Request) -> frozenset[str | None]:
        """The models whose KV caches a row and, if it has one, its group use."""
        group = self._group_of.get(row.request_id)
        return _BASE if group is None else group.models

    def _is_ample(self, model: str | None, step: Step) -> bool:
        """Whether a model's KV cache holds whatever this step may ask for. Quick, and careful."""
        if model is not None and not any(model in group.models for group in self._groups.values()):
            return True
        rows = len(self._group_of) + len(self.running)
        room = self._models[model].room
        return room.free_for_admission >= room.most_in_step(rows, step.budget)

    def _short_of_blocks(self, step: Step) -> frozenset[str | None]:
        """The models whose KV caches lack blocks for what runs already, in this step."""
        wanted: Counter[str | None] = Counter()
        late = [row for group in self._joining if group.released for row in group.unjoined()]
        for row in late:
            wanted[model_of(row)] += self._models[model_of(row)].room.of_tokens(1)
        for model in set(map(model_of, late)):
            wanted[model] += self._models[model].room.watermark
        left = step.budget - len(late) - sum(map(self._decodes, self.running))
        for row in self.running:
            new = tokens_left(row)
            if not self._decodes(row):
                new = min(new - 1 if row.request_id in self._group_of else new, max(left, 0))
                left -= new
            wanted[model_of(row)] += self._models[model_of(row)].room.wanted_by(row, new)
        return frozenset(m for m, blocks in wanted.items() if blocks > self._models[m].room.free)

    def _decodes(self, row: Request) -> bool:
        """Whether a running row has one token to compute in this step and may compute it."""
        group = self._group_of.get(row.request_id)
        return tokens_left(row) == 1 and (group is None or group.released)

    def _queue_unjoined(self, step: Step) -> None:
        """Put the rows that may join now where vLLM admits them before anybody else.

        A row of one token has nothing to do before the barrier and joins at the release.
        """
        for group in self._joining:
            for row in group.unjoined():
                if group.released or row.num_tokens > 1:
                    self.kv_holding_waiting.add_request(row)
                    step.reserved += group.released
                else:
                    step.absent += 1
        step.released = [group for group in self._joining if group.released]
        self._joining = [group for group in self._joining if not group.released]

    def _reserve_decodes(self, step: Step) -> None:
        """Keep a token of the budget for every row that decodes; prefills share the rest."""
        step.reserved += sum(map(self._decodes, self.running))

    def _held_adapters(self) -> set[Slot]:
        """Adapters of all that runs or was admitted, scheduled in this step or not.

        vLLM counts the scheduled ones only, but a group at the barrier will need its slots again.
        """
        held = {slot for row in self.running if (slot := slot_of(row)) is not None}
        return held.union(*(group.adapters for group in self._groups.values() if group.admitted))

    def _check_lock_step(self, step: Step, output: SchedulerOutput) -> None:
        """Fail loudly rather than advance a group in part: its rows would never agree again."""
        scheduled = output.num_scheduled_tokens
        for group in self._groups.values():
            if not group.released:
                continue
            count = sum(row.request_id in scheduled for row in group.rows)
            if count == 0 and group in step.released:
                group.released = False  # vLLM held all of them back: try again
                self._joining.append(group)
            elif count not in (0, len(group.rows)):
                raise RuntimeError(
                    f"{count} of the {len(group.rows)} rows of {group.leader.request_id} were "
                    "scheduled; this is a bug, please report it"
                )

    # ---- vLLM's questions

    def _reserve_prefill_lookahead(
        self, request: Request, num_computed_tokens: int, num_new_tokens: int
    ) -> int:
        new: int = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        step = self._step
        if step is None:
            return new
        left = request.num_tokens + request.num_output_placeholders - num_computed_tokens
        group = self._group_of.get(request.request_id)
        if group is not None and not group.released:
            new = min(new, left - 1, step.unreserved)
        elif left > 1 and group is None:
            new = min(new, step.unreserved)
        elif left == 1:
            step.reserved -= new
        step.budget -= new
        return new

    def _get_local_prefix_cache_hit(self, request: Request) -> Any:
        hit = super()._get_local_prefix_cache_hit(request)
        group = self._group_of.get(request.request_id)
        if group is None or group.released:
            return hit
        blocks, cached, boundary, diverged = hit
        room = self._models[model_of(request)].room
        blocks, cached = room.before_barrier(request, blocks, cached)
        return blocks, cached, boundary, diverged

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        if request.request_id in self.grammar_compile_error_reqs:
            return False
        ready: bool = super()._handle_blocked_waiting_request(request)
        step = self._step
        if step is None or not ready:
            return ready
        group = self._group_of.get(request.request_id)
        if group is not None:
            if self._kept is not None and self._kept.group is group:
                self._kept.asked = True
            return group.admitted or self._admit(group, step)
        slot = slot_of(request)
        adapters = frozenset[Slot]() if slot is None else frozenset({slot})
        if not step.has_slots(adapters):
            return False
        if (kept := self._kept_before(request)) is not None:
            need = Need.of([request], adapters, self._limits)
            if not kept.lets_pass(need):
                # The next in line has to wait as well. But a preempted request stands first in
                # line, whenever it arrived: end vLLM's loop only after the gang had its turn.
                if kept.asked and not adapters:
                    self.max_num_active_reqs = 0
                return False
            kept.count(request, need)
        return step.take_adapters(adapters)

    # ---- admission

    def _admit(self, group: Gang, step: Step) -> bool:
        """Admit a group as a whole, or let it wait."""
        if step.throttled or any(row.num_stale_output_tokens for row in group.rows):
            return False  # stale: output from before a preemption is still on its way
        if not self._fits_now(group, step):
            if group.refused_s is None:
                group.refused_s = self._clock()
            if self._kept is None and self._clock() - group.refused_s >= self._patience_s:
                self._kept = Reservation(group, self._limits, self._runs)
            return False
        if self._kept is not None and self._kept.group is group:
            self._kept = None
        step.take_adapters(group.adapters)
        group.admitted = True
        if group.arrived_s is not None:
            self._figures.waited(self._clock() - group.arrived_s)
            group.arrived_s = None
        (step.released if group.released else self._joining).append(group)
        joins = [row for row in group.rows if group.released or row.num_tokens > 1]
        for row in joins:
            if row is not group.leader:
                self.kv_holding_waiting.add_request(row)
        step.absent += len(group.rows) - len(joins)
        self.max_num_active_reqs = step.slots - step.absent
        return group.leader in joins

    def _fits_now(self, group: Gang, step: Step) -> bool:
        """Whether there is room for a group, beside one whose room is kept."""
        running = len(self.running) + self.num_waiting_for_streaming_input
        if running + step.absent + len(group.rows) > step.slots:
            return False
        if not step.has_slots(group.adapters):
            return False
        # Where many gangs wait, one that wants no less of a KV cache than one that found no room
        # finds none either, or nearly: looking up the prefixes of all would cost more than a step.
        if step.refuses(group):
            return False
        kept = self._kept_before(group.leader)
        need = Need.of(group.rows, group.adapters, self._limits)
        if kept is not None and not kept.lets_pass(need):
            return False
        if short := self._lacks_room(group, step):
            step.refuse(group, short)
            return False
        if kept is not None:
            kept.count(group.leader, need)
        return True

    def _kept_before(self, request: Request) -> Reservation | None:
        """The room that is kept for a group which stands in line before a request."""
        kept = self._kept
        if kept is None or self._lateness(request) <= self._lateness(kept.group.leader):
            return None
        return kept

    def _runs(self, request: Request) -> bool:
        group = self._group_of.get(request.request_id)
        return request.status is RequestStatus.RUNNING or (group is not None and group.admitted)

    def _lacks_room(self, group: Gang, step: Step) -> frozenset[str | None]:
        """The models whose KV caches do not hold the tokens of the group's rows now.

        Releases the group if all of them do, and one step computes all tokens.
        """
        rows: dict[str | None, list[Request]] = defaultdict(list)
        for row in group.rows:
            rows[model_of(row)].append(row)
        # Hits in the prefix cache are not counted on here: they may be evicted within the step.
        group.released = (
            not group.prompt_tail_alone
            and sum(row.num_tokens for row in group.rows) <= step.unreserved
            and all(self._models[model].room.holds(own) for model, own in rows.items())
            and self.scheduler_config.long_prefill_token_threshold == 0
        )
        if group.released:
            return frozenset()
        return frozenset(
            model
            for model, own in rows.items()
            if (room := self._models[model].room).wanted_to_admit(own) > room.free_for_admission
        )

    # ---- the end

    def _preempt_request(
        self, request: Request, timestamp: float, drop_stale_output: bool = False
    ) -> None:
        group = self._group_of.get(request.request_id)
        if group is not None and self._step is not None:
            raise RuntimeError(
                f"row {request.request_id} was preempted in the middle of a step; "
                "this is a bug, please report it"
            )
        super()._preempt_request(request, timestamp, drop_stale_output)
        if group is None:
            return
        leader = group.leader
        if request is not leader:
            self.waiting.remove_request(request)  # the leader waits for all
        if group.admitted:
            self._figures.preemptions += 1
            group.admitted = group.released = False
            if group in self._joining:
                self._joining.remove(group)
            if leader.status is not RequestStatus.RUNNING and leader not in self.waiting:
                self.waiting.prepend_request(leader)

    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus
    ) -> list[Request]:
        finished: list[Request] = super().finish_requests(request_ids, finished_status)
        if self._group_of:
            finished = [row for row in finished if not self._is_companion(row.request_id)]
            self._end_groups()
        return finished

    def _free_request(self, request: Request, delay_free_blocks: bool = False) -> Any:
        group = self._groups.pop(request.request_id, None)
        if group is not None:
            self._ended.append(group)
        return super()._free_request(request, delay_free_blocks)

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        failures = failures_of(model_runner_output)
        failed = self._fail(failures, scheduler_output) if failures else []
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(
            scheduler_output, model_runner_output
        )
        for request in failed:
            client = outputs.setdefault(request.client_index, EngineCoreOutputs())
            client.outputs.append(
                EngineCoreOutput(
                    request_id=request.request_id,
                    new_token_ids=[],
                    finish_reason=request.get_finished_reason(),
                    events=request.take_events(),
                    trace_headers=request.trace_headers,
                )
            )
        if self._group_of:
            for client in outputs.values():
                client.outputs = [
                    out for out in client.outputs if not self._is_companion(out.request_id)
                ]
            self._end_groups()
        return outputs

    def _fail(self, failures: Failures, output: SchedulerOutput) -> list[Request]:
        """End the requests that needed what a step could not load, before vLLM looks at what the
        step gave them; returns them, with no token of that step.

        All that run with a failed adapter end: under async scheduling the next step is under way,
        and may have taken blocks from the prefix cache that this one filled with something else.
        """
        names = set(failures.gates)
        for request in {
            *self.running,
            *(self.requests.get(n) for n in output.num_scheduled_tokens),
        }:
            if request is None or request.is_finished():
                continue
            group = self._group_of.get(request.request_id)
            slot = slot_of(request)
            slots = group.adapters if group is not None else {slot}
            if not failures.adapters.keys().isdisjoint(slots):
                names.add((request if group is None else group.leader).request_id)
        names &= self.requests.keys()
        for problem in {*failures.adapters.values(), *failures.gates.values()}:
            ended = ", ".join(sorted(names)) or "no request: all that needed it had left"
            logger.error("In a step, %s; ended %s", problem, ended)
        self._forget_prefixes()
        return self.finish_requests(names, RequestStatus.FINISHED_ERROR)

    def _forget_prefixes(self) -> None:
        """Empty the prefix caches of all models; blocks in use stay with their rows.

        Scheduling a step keys its blocks. After a failure the content of some blocks is not what
        their keys say, and the rows that would name these blocks may be gone: aborted or preempted
        while the step ran.
        """
        pools = self._pools
        managers = [self.kv_cache_manager] if pools is None else [own for _, own in pools]
        for manager in managers:
            blocks = manager.block_pool.blocks
            manager.evict_blocks({b.block_id for b in blocks if b.block_hash is not None})

    def _is_companion(self, request_id: str) -> bool:
        group = self._group_of.get(request_id)
        return group is not None and group.leader.request_id != request_id

    def make_stats(self, *args: Any, **kwargs: Any) -> SchedulerStats | None:
        """vLLM's figures, of requests that clients sent and of adapters as clients call them."""
        stats: SchedulerStats | None = super().make_stats(*args, **kwargs)
        if stats is None:
            return None
        groups = self._groups.values()
        if groups:
            counts = ClientCounts.of(
                self.requests.values(), self.running, self.deferred_waiting, groups
            )
            stats.num_running_reqs = counts.running
            stats.num_waiting_reqs = counts.waiting
            stats.num_skipped_waiting_reqs = counts.deferred
        if self.lora_config is not None:
            of_groups = self._group_of
            stats.running_lora_adapters = aliases(
                (row for row in self.running if row.request_id not in of_groups),
                (group for group in groups if group.admitted),
            )
            stats.waiting_lora_adapters = aliases(
                (row for row in self.waiting if row.request_id not in of_groups),
                (group for group in groups if not group.admitted),
            )
        return stats

    def _end_groups(self) -> None:
        """End the companions of leaders that have ended, whatever the reason was."""
        while self._ended:
            group = self._ended.pop()
            if group in self._joining:
                self._joining.remove(group)
            if self._kept is not None and self._kept.group is group:
                self._kept = None
            super().finish_requests(
                [row.request_id for row in group.companions], RequestStatus.FINISHED_ABORTED
            )
            for row in group.rows:
                del self._group_of[row.request_id]
                if self._pools is not None and model_of(row) is not None:
                    self._pools.remove(row.request_id)


class AsyncGangScheduler(_Gangs, AsyncScheduler):
    """For async scheduling, vLLM's default where the platform supports it."""


class SyncGangScheduler(_Gangs, Scheduler):
    """For CPU, and for `async_scheduling=False`."""


def gang_scheduler(vllm_config: VllmConfig, **kwargs: Any) -> Scheduler:
    """What `--scheduler-cls` names: the class that fits the engine's mode, known only to vLLM."""
    asynchronous = vllm_config.scheduler_config.async_scheduling
    cls = AsyncGangScheduler if asynchronous else SyncGangScheduler
    obey_front_end()
    return cls(vllm_config=vllm_config, **kwargs)
