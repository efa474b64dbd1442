"""What a step could not load, on its way from the workers to the scheduler.

A file that is gone must end the requests that need it, not the engine. The worker computes the step
without the adapter or the gate and reports it with the step's output; the scheduler ends the
requests before any of their tokens reaches a client.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from vllm.distributed.parallel_state import get_pp_group, get_tp_group
from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput

from composer.vllm.execute.split_step import RunnerOutput
from composer.vllm.schedule.gang import Slot

_ATTRIBUTE = "composer_failures"


@dataclass(slots=True)
class Failures:
    """Why something that a step needed is not there."""

    adapters: dict[Slot, str] = field(default_factory=dict)
    requests: dict[str, str] = field(default_factory=dict)  # by request id: its gate

    def __bool__(self) -> bool:
        return bool(self.adapters or self.requests)


def agreed(found: dict[int, str]) -> dict[int, str]:
    """What any worker of the tensor-parallel group found, by the id of an adapter.

    Every worker reads the files itself; where one of them fails, none may count on its part. To be
    called by all of them in the same steps.

    Raises:
        RuntimeError: something failed in one stage of a pipeline; the others do not hear of it, and
            would answer without it.
    """
    if found and get_pp_group().world_size > 1:
        raise RuntimeError("; ".join(found.values()))
    group = get_tp_group()
    if group.world_size == 1:
        return found
    everywhere: list[dict[int, str]] = [{}] * group.world_size
    torch.distributed.all_gather_object(everywhere, found, group=group.cpu_group)
    return {id: problem for one in everywhere for id, problem in one.items()}


def attach(output: RunnerOutput, failures: Failures) -> RunnerOutput:
    """The output of a step with what failed in it."""
    if isinstance(output, AsyncModelRunnerOutput):
        return _AttachedLater(output, failures)
    output = copy.copy(output)  # the empty one is shared by all steps
    setattr(output, _ATTRIBUTE, failures)
    return output


def failures_of(output: ModelRunnerOutput) -> Failures | None:
    """What failed in the step that gave this output."""
    failures: Failures | None = getattr(output, _ATTRIBUTE, None)
    return failures


class _AttachedLater(AsyncModelRunnerOutput):
    """Async scheduling: the tokens are still on their way from the device."""

    def __init__(self, output: AsyncModelRunnerOutput, failures: Failures) -> None:
        self._output = output
        self._failures = failures

    def get_output(self) -> ModelRunnerOutput:
        output = attach(self._output.get_output(), self._failures)
        assert isinstance(output, ModelRunnerOutput)
        return output
