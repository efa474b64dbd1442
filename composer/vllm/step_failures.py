"""What a step could not load, on its way from the workers to the scheduler.

A missing file must end the requests that need it, not the engine. The worker computes the step
without the adapter or the gate and reports it with the step's output; the scheduler ends the
requests before any of their tokens reaches a client.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from vllm.distributed.parallel_state import get_pp_group, get_tp_group
from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput

from composer.vllm.execute.split_step import DeferredOutput, RunnerOutput
from composer.vllm.schedule.gang import Slot

_ATTRIBUTE = "composer_failures"


@dataclass(slots=True)
class Failures:
    """What the step needed and could not load, with the reasons."""

    adapters: dict[Slot, str] = field(default_factory=dict)
    gates: dict[str, str] = field(default_factory=dict)  # by request id

    def __bool__(self) -> bool:
        return bool(self.adapters or self.gates)


def agreed(problems: dict[int, str]) -> dict[int, str]:
    """Return the problems of all workers of the tensor-parallel group, by adapter id.

    Every worker reads the files itself; where one of them fails, none may use its part. All of them
    must call this in the same steps.

    Raises:
        RuntimeError: a stage of a pipeline has a problem; the other stages do not learn of it and
            would answer without the adapter.
    """
    if problems and get_pp_group().world_size > 1:
        raise RuntimeError("; ".join(problems.values()))
    group = get_tp_group()
    if group.world_size == 1:
        return problems
    everywhere: list[dict[int, str]] = [{}] * group.world_size
    torch.distributed.all_gather_object(everywhere, problems, group=group.cpu_group)
    return {id: problem for worker in everywhere for id, problem in worker.items()}


def attach(output: RunnerOutput, failures: Failures) -> RunnerOutput:
    """Return the output of a step with what failed in it."""
    if isinstance(output, AsyncModelRunnerOutput):
        return DeferredOutput(lambda: _with_failures(output.get_output(), failures))
    return _with_failures(output, failures)


def _with_failures(output: ModelRunnerOutput, failures: Failures) -> ModelRunnerOutput:
    output = copy.copy(output)  # the empty one is shared by all steps
    setattr(output, _ATTRIBUTE, failures)
    return output


def failures_of(output: ModelRunnerOutput) -> Failures | None:
    """Return what failed in the step that gave this output."""
    failures: Failures | None = getattr(output, _ATTRIBUTE, None)
    return failures
