"""A step of several models: one scheduler output split, their runner outputs merged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

from vllm.v1.core.sched.output import CachedRequestData, SchedulerOutput
from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput

RunnerOutput: TypeAlias = ModelRunnerOutput | AsyncModelRunnerOutput


def split(output: SchedulerOutput, mine: Callable[[str], bool], *, base: bool) -> SchedulerOutput:
    """What a step says to the model whose request ids are `mine`.

    What concerns no single request is the base model's: images, connectors, copies of blocks.
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
    """One output for the scheduler, the base model's first; to be waited for if one of them is."""
    if any(isinstance(output, AsyncModelRunnerOutput) for output in outputs):
        return _MergedLater(outputs)
    return _merged(outputs)


class _MergedLater(AsyncModelRunnerOutput):
    """Async scheduling: the tokens are still on their way from the device."""

    def __init__(self, outputs: Sequence[RunnerOutput]) -> None:
        self._outputs = outputs

    def get_output(self) -> ModelRunnerOutput:
        return _merged(
            [
                output.get_output() if isinstance(output, AsyncModelRunnerOutput) else output
                for output in self._outputs
            ]
        )


def _merged(outputs: Sequence[ModelRunnerOutput]) -> ModelRunnerOutput:
    """The rows of the base model stay where they are, as `logprobs` counts on."""
    names = [name for output in outputs for name in output.req_ids]
    return dataclasses.replace(
        outputs[0],
        req_ids=names,
        req_id_to_index={name: index for index, name in enumerate(names)},
        sampled_token_ids=[ids for output in outputs for ids in output.sampled_token_ids],
    )
