"""The end of requests that needed an adapter or a gate that a step could not load."""

from __future__ import annotations

from collections.abc import Iterable

from vllm.logger import init_logger
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.request import Request

from composer.vllm.schedule.gang_table import GangTable
from composer.vllm.step_failures import Failures

logger = init_logger(__name__)


def failed_requests(
    scheduler: Scheduler, gangs: GangTable, failures: Failures, output: SchedulerOutput
) -> set[str]:
    """Return the ids of the requests that needed what a step could not load.

    All that run with a failed adapter are among them: under async scheduling the next step is under
    way, and may have taken blocks from the prefix cache that this one filled with something else.
    """
    names = set(failures.gates)
    scheduled = (scheduler.requests.get(name) for name in output.num_scheduled_tokens)
    for row in {*scheduler.running, *scheduled}:
        if row is None or row.is_finished():
            continue
        if not failures.adapters.keys().isdisjoint(gangs.adapters_of(row)):
            gang = gangs.of(row)
            names.add((row if gang is None else gang.leader).request_id)
    names &= scheduler.requests.keys()
    for problem in {*failures.adapters.values(), *failures.gates.values()}:
        ended = ", ".join(sorted(names)) or "no request: all that needed it had left"
        logger.error("In a step, %s; ended %s", problem, ended)
    return names


def add_final_outputs(outputs: dict[int, EngineCoreOutputs], failed: Iterable[Request]) -> None:
    """Tell the clients of failed requests that these have ended, without a token of the step."""
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
