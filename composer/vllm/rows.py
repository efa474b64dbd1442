"""Leader and companions: one composed request as the vLLM requests that compute its members."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.v1.request import Request, RequestStatus

from composer.compiled import ENGINE_ARG, CompiledPlan
from composer.plan import Filter

ROW_ARG = "composition_row"
"""Key of a `RowTag` in the `extra_args` that the scheduler hands to the worker."""

Slot: TypeAlias = tuple[str | None, int]
"""An adapter in use: the auxiliary model it belongs to (None: the base) and its lora_int_id."""


@dataclass(frozen=True, slots=True)
class RowTag:
    """What the worker must know of a row. Weights and filters travel with the leader only.

    `model` is the auxiliary model that computes the row; None is the base.
    """

    group: str
    index: int
    size: int
    model: str | None = None
    weights: tuple[float, ...] = ()
    filters: tuple[Filter, ...] = ()

    @staticmethod
    def of(params: SamplingParams | None) -> RowTag | None:
        """The tag of a row, or None for a plain request."""
        extra: Mapping[str, Any] | None = params.extra_args if params is not None else None
        return extra.get(ROW_ARG) if extra else None


def model_of(row: Request) -> str | None:
    """The auxiliary model that computes a request; None is the base."""
    tag = RowTag.of(row.sampling_params)
    return tag.model if tag is not None else None


def slot_of(row: Request) -> Slot | None:
    """The adapter that a request takes a slot for, if it has one."""
    lora = row.lora_request
    return (model_of(row), lora.lora_int_id) if lora is not None else None


@dataclass(slots=True, eq=False)
class RowGroup:
    """The rows of one composed request, leader first, and how far they have come.

    Life: waiting (only the leader is queued, nothing is held) -> admitted (its rows join the batch
    and prefill up to their last known token) -> released (all rows decode in lock-step) -> gone.
    Preemption leads back to waiting.
    """

    rows: tuple[Request, ...]
    adapters: frozenset[Slot]
    models: frozenset[str | None]  # that compute its rows; None is the base, always among them
    admitted: bool = False
    released: bool = False

    @property
    def leader(self) -> Request:
        return self.rows[0]

    @property
    def companions(self) -> tuple[Request, ...]:
        return self.rows[1:]

    def unjoined(self) -> list[Request]:
        """Rows that are not in the batch yet."""
        return [row for row in self.rows if row.status is not RequestStatus.RUNNING]

    def at_barrier(self) -> bool:
        """Whether every row has exactly its last known token left to compute.

        A row that consists of a single token has nothing to compute before the barrier: it joins
        when the others are released.
        """
        return all(
            row.num_tokens - row.num_computed_tokens == 1
            if row.status is RequestStatus.RUNNING
            else row.num_tokens == 1
            for row in self.rows
        )


def tokens_left(row: Request) -> int:
    """How many tokens a running row has left to compute, as vLLM's scheduler counts them.

    Zero if, under async scheduling, the step in flight will bring its last token.
    """
    placeholders = row.num_output_placeholders
    if placeholders > 0 and (
        row.num_computed_tokens + 2 - placeholders >= row.num_prompt_tokens + row.max_tokens
    ):
        return 0
    return row.num_tokens + placeholders - row.num_computed_tokens


def expand(leader: Request, plan: CompiledPlan, max_tokens: int) -> RowGroup:
    """The rows that compute `plan` for the request that vLLM knows as `leader`.

    `max_tokens` is common to all rows, so that the length limit ends them in the same step. The
    companions sample nothing of their own (the sampler overwrites their tokens), and stop at
    nothing: the leader ends the group.
    """
    params = leader.sampling_params
    assert params is not None
    assert leader.prompt_token_ids is not None
    size = len(plan.rows)
    weights = tuple(row.weight for row in plan.rows)
    # The parameters are shared by the n answers to one request, hence the copy.
    params = copy.copy(params)
    params.extra_args = {k: v for k, v in (params.extra_args or {}).items() if k != ENGINE_ARG}
    params.extra_args[ROW_ARG] = RowTag(
        leader.request_id, 0, size, weights=weights, filters=plan.filters
    )
    leader.sampling_params = params
    leader.max_tokens = max_tokens

    rows = [leader]
    for index, row in enumerate(plan.rows[1:], start=1):
        adapter = row.adapter
        tag = RowTag(leader.request_id, index, size, row.model)
        rows.append(
            Request(
                request_id=f"{leader.request_id}#{index}",
                prompt_token_ids=list(
                    leader.prompt_token_ids
                    if row.prompt_token_ids is None
                    else row.prompt_token_ids
                ),
                sampling_params=SamplingParams(
                    temperature=0.0,
                    max_tokens=max_tokens,
                    ignore_eos=True,
                    detokenize=False,
                    skip_reading_prefix_cache=params.skip_reading_prefix_cache,
                    extra_args={ROW_ARG: tag},
                ),
                pooling_params=None,
                client_index=leader.client_index,
                arrival_time=leader.arrival_time,
                lora_request=LoRARequest(adapter.name, adapter.id, adapter.path)
                if adapter
                else None,
                cache_salt=leader.cache_salt,
                priority=leader.priority,
                block_hasher=leader._block_hasher,
            )
        )
    adapters = frozenset(slot for row in rows if (slot := slot_of(row)) is not None)
    return RowGroup(tuple(rows), adapters, frozenset(row.model for row in plan.rows))
