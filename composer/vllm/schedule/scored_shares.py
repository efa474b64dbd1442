"""How much of their prompts the gangs that are scored compute in a step."""

from __future__ import annotations

from collections.abc import Sequence

from vllm.v1.request import Request

from composer.vllm.schedule.gang import tokens_left
from composer.vllm.schedule.gang_table import GangTable
from composer.vllm.schedule.kv_cache.kv_demand import KVDemand
from composer.vllm.schedule.step_budget import StepBudget


def share_among_scored(
    gangs: GangTable, demand: KVDemand, running: Sequence[Request], step: StepBudget, longest: int
) -> None:
    """Give each gang that is scored its chunk of this step: one token, and an equal share of what
    nobody else needs.

    Args:
        gangs: of the scheduler.
        demand: counts what the others compute.
        running: all requests that run.
        step: the step in progress.
        longest: tokens of a prompt that one step computes at most.
    """
    released = [gang for gang in gangs.by_leader.values() if gang.released and gang.scored]
    scored = [g for g in released if tokens_left(g.leader) > 1 and not g.one_by_one]
    for gang in released:
        gang.chunk = 1
    if not scored:
        return
    late = sum(len(gang.unjoined()) for gang in gangs.joining if gang.released)
    spare = step.tokens - late - sum(map(demand.in_lock_step, running))
    for index, gang in enumerate(scored):
        share = spare // (len(scored) - index) // len(gang.rows)
        more = max(0, min(share, longest - 1, tokens_left(gang.leader) - 1))
        gang.chunk += more
        spare -= more * len(gang.rows)
