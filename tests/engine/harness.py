"""A real vLLM engine, driven step by step and watched.

After every step the invariants of gang scheduling are checked on the scheduler's own output, so
that every test of this folder is a test of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from vllm.outputs import RequestOutput
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import RequestStatus

from bench.agreement import count_mismatches
from bench.inprocess import InProcessEngine, Job
from composer.vllm.schedule.gang import slot_of, tokens_left

__all__ = ["InProcessEngine", "Job", "WatchedEngine", "count_mismatches"]

IS_V2 = os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1"

of_v1 = pytest.mark.skipif(IS_V2, reason="reads what only the V1 runner has")


@dataclass
class Watch:
    """What the steps so far have shown."""

    steps: int = 0
    preempted_gangs: int = 0
    chunked_rows: int = 0
    scheduled: list[dict[str, int]] = field(default_factory=list)  # step -> request id -> tokens


class WatchedEngine(InProcessEngine):
    """The engine, with the invariants checked in every step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.watch = Watch()
        self._schedule = self.scheduler.schedule
        self.scheduler.schedule = self._watched_schedule

    def add_unchecked(self, prompt: Sequence[int], extra_args: dict[str, Any]) -> str:
        """Queue a plain request with arguments that no front end has looked at; its name."""
        self._count += 1
        name = f"r{self._count}"
        inputs, params = {"prompt_token_ids": list(prompt)}, Job(tuple(prompt)).sampling_params()
        request = self.engine.input_processor.process_inputs(
            name, inputs, params, self.engine.get_supported_tasks()
        )
        request.sampling_params.extra_args = extra_args
        self.engine.add_request(name, request, request.sampling_params)
        return name

    def step(self) -> list[RequestOutput]:
        outputs = super().step()
        self._check_tokens()
        return outputs

    def assert_nothing_left(self) -> None:
        """No request, gang, block, slot or row index survives its request."""
        assert self.leftovers() == []

    def _watched_schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        scheduler, watch = self.scheduler, self.watch
        admitted = {id(g) for g in scheduler.gangs.by_leader.values() if g.admitted}
        output = self._schedule(*args, **kwargs)
        scheduled = output.num_scheduled_tokens
        watch.steps += 1
        watch.scheduled.append(dict(scheduled))
        for gang in scheduler.gangs.by_leader.values():
            counts = [row.request_id in scheduled for row in gang.rows]
            joined = [row.status is RequestStatus.RUNNING for row in gang.rows]
            if id(gang) in admitted and not gang.admitted:
                watch.preempted_gangs += 1
            if gang.released:
                # A released gang advances as a whole or not at all ...
                assert all(counts) or not any(counts), (gang.leader.request_id, counts)
                assert all(joined)
            else:
                # ... one that was not released never computes its last known token ...
                for row in gang.rows:
                    assert row.num_computed_tokens < row.num_tokens
                    watch.chunked_rows += row.request_id in scheduled
            if not gang.admitted:
                # ... and one that waits holds nothing.
                assert not any(joined)
                assert not any(counts)
                for row in gang.rows:
                    assert not any(scheduler.kv_cache_manager.get_block_ids(row.request_id))
                    if row.status is RequestStatus.WAITING:
                        assert row.num_computed_tokens == 0
        # Under async scheduling a row stays in `running` while its last token is on its way.
        active = [r for r in scheduler.running if r.request_id in scheduled or tokens_left(r)]
        for model, limits in scheduler.limits.models.items():
            slots = {slot for row in active if (slot := slot_of(row)) is not None}
            for row in active:  # a row that switches has a slot for each candidate
                if (gang := scheduler.gangs.by_row.get(row.request_id)) is not None:
                    slots |= gang.adapters
            assert len([slot for slot in slots if slot[0] == model]) <= limits.capacity.adapters
        assert len(scheduler.running) <= scheduler.max_num_running_reqs
        return output

    def _check_tokens(self) -> None:
        """The rows of a gang hold the same answer at every moment."""
        for gang in self.scheduler.gangs.by_leader.values():
            answers = {tuple(row.output_token_ids) for row in gang.rows}
            assert len(answers) == 1, (gang.leader.request_id, answers)
