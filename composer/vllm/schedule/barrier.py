"""The barrier: rows of admitted gangs join the batch, read their prompts and are released."""

from __future__ import annotations

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler

from composer.vllm.schedule.gang_table import GangTable
from composer.vllm.schedule.step_budget import StepBudget


class Barrier:
    """Moves the rows of joining gangs through the queues of vLLM's scheduler."""

    def __init__(self, gangs: GangTable, scheduler: Scheduler) -> None:
        self._gangs = gangs
        self._scheduler = scheduler

    def recall(self) -> None:
        """Take back from vLLM's queues the rows that could not join in the last step."""
        scheduler = self._scheduler
        for gang in self._gangs.joining:
            for row in gang.unjoined():
                for queue in (scheduler.kv_holding_waiting, scheduler.waiting):
                    if row in queue:
                        queue.remove_request(row)
                scheduler.deferred_waiting.discard(row)

    def release(self) -> None:
        """Release the gangs whose rows have all arrived at the barrier."""
        for gang in self._gangs.joining:
            gang.released = gang.at_barrier()

    def queue(self, step: StepBudget, *, may_release: bool) -> None:
        """Put the rows that may join now where vLLM admits them before anybody else.

        A row with nothing to do before the barrier joins at the release.
        """
        joining = self._gangs.joining
        for gang in joining:
            gang.released &= may_release
            for row in gang.unjoined():
                if gang.released or gang.joins_early(row):
                    self._scheduler.kv_holding_waiting.add_request(row)
                    step.reserved += gang.chunk if gang.released else 0
                else:
                    step.absent += 1
        step.released = [gang for gang in joining if gang.released]
        self._gangs.joining = [gang for gang in joining if not gang.released]

    def check_lock_step(self, step: StepBudget, output: SchedulerOutput) -> None:
        """Fail rather than advance a gang in part: its rows would never agree again.

        Raises:
            RuntimeError: some rows of a released gang were scheduled and some were not, or for
                other numbers of tokens.
        """
        scheduled = output.num_scheduled_tokens
        for gang in self._gangs.by_leader.values():
            if not gang.released:
                continue
            counts = [scheduled.get(row.request_id, 0) for row in gang.rows]
            if not any(counts) and gang in step.released:
                gang.released = False  # vLLM held all of them back: try again
                self._gangs.joining.append(gang)
            elif len({*counts}) > 1 and (gang.scored or not all(counts)):
                raise RuntimeError(
                    f"the rows of {gang.leader.request_id} were scheduled for {counts} tokens; "
                    "this is a bug, please report it"
                )
