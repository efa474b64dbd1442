"""A step of several models: one scheduler output split, their runner outputs merged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

from vllm.v1.core.sched.output import CachedRequestData, SchedulerOutput
from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput

RunnerOutput: TypeAlias = ModelRunnerOutput | AsyncModelRunnerOutput


def split(output: SchedulerOutput, mine: Callable[[str], bool], *, base: bool) -> SchedulerOutput:
    """Return the part of a step that concerns one model.

    Args:
        output: of the scheduler.
        mine: whether the model computes a request.
        base: whether it is the base model, which also gets what concerns no single request
            (images, connectors, copies of blocks).
    """
    tokens = {name: count for name, count in output.num_scheduled_tokens.items() if mine(name)}
    part = dataclasses.replace(
        output,
        scheduled_new_reqs=[new for new in output.scheduled_new_reqs if mine(new.req_id)],
        scheduled_cached_reqs=_split_cached(output.scheduled_cached_reqs, mine),
        num_scheduled_tokens=tokens,
        total_num_scheduled_tokens=sum(tokens.values()),
        finished_req_ids={name for name in output.finished_req_ids if mine(name)},
    )
    if not base:
        part.free_encoder_mm_hashes = []
        part.new_block_ids_to_zero = None
        part.kv_cache_block_copies = None
    return part


def _split_cached(cached: CachedRequestData, mine: Callable[[str], bool]) -> CachedRequestData:
    kept = [index for index, name in enumerate(cached.req_ids) if mine(name)]
    return CachedRequestData(
        req_ids=[cached.req_ids[k] for k in kept],
        resumed_req_ids={name for name in cached.resumed_req_ids if mine(name)},
        new_token_ids=[],  # for pipeline parallelism only
        all_token_ids={name: ids for name, ids in cached.all_token_ids.items() if mine(name)},
        new_block_ids=[cached.new_block_ids[k] for k in kept],
        num_computed_tokens=[cached.num_computed_tokens[k] for k in kept],
        num_output_tokens=[cached.num_output_tokens[k] for k in kept],
    )


def merge(outputs: Sequence[RunnerOutput]) -> RunnerOutput:
    """Return one output for the scheduler, deferred if one of the outputs is.

    Args:
        outputs: the base model's first.
    """
    if any(isinstance(output, AsyncModelRunnerOutput) for output in outputs):
        return DeferredOutput(lambda: _merged([resolved(output) for output in outputs]))
    return _merged([resolved(output) for output in outputs])


class DeferredOutput(AsyncModelRunnerOutput):
    """An output whose tokens are still on their way from the device (async scheduling)."""

    def __init__(self, get: Callable[[], ModelRunnerOutput]) -> None:
        self._get = get

    def get_output(self) -> ModelRunnerOutput:
        return self._get()

    def get_kv_connector_output(self) -> None:
        """vLLM 0.33 asks for it where `get_output` fails. `check_engine` refuses connectors."""


def resolved(output: RunnerOutput) -> ModelRunnerOutput:
    """Return the output itself, after waiting for its tokens if it is deferred."""
    return output.get_output() if isinstance(output, AsyncModelRunnerOutput) else output


def _merged(outputs: Sequence[ModelRunnerOutput]) -> ModelRunnerOutput:
    """Append the rows of the other models to those of the base model, whose `logprobs` go by
    row."""
    names = [name for output in outputs for name in output.req_ids]
    return dataclasses.replace(
        outputs[0],
        req_ids=names,
        req_id_to_index={name: index for index, name in enumerate(names)},
        sampled_token_ids=[ids for output in outputs for ids in output.sampled_token_ids],
    )
