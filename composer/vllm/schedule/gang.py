"""Leader and companions: one composed request as the vLLM requests that compute its members."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeAlias

from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.v1.core.kv_cache_utils import BlockHash
from vllm.v1.request import Request, RequestStatus

from composer.engine_plan import ENGINE_ARG, ROW_ARG, EnginePlan, MixtureParameters, Switch
from composer.filters import Filter

Slot: TypeAlias = tuple[str | None, int]
"""An adapter in use: the auxiliary model it belongs to (None: the base) and its lora_int_id."""


@dataclass(frozen=True, slots=True)
class RowTag:
    """What the worker must know of a row. Weights, filters and the last three travel with the
    leader only.

    `model` is the auxiliary model that computes the row; None is the base.
    """

    group: str
    index: int
    size: int
    model: str | None = None
    mixture: MixtureParameters | None = None
    weights: tuple[float, ...] = ()
    filters: tuple[Filter, ...] = ()
    switch: Switch | None = None
    report: str | None = None
    explain: bool = False

    @staticmethod
    def of(params: SamplingParams | None) -> RowTag | None:
        """The tag of a row, or None for a plain request, and for one with a foreign value in the
        tag's place."""
        extra: Mapping[str, Any] | None = params.extra_args if params is not None else None
        tag = extra.get(ROW_ARG) if extra else None
        return tag if isinstance(tag, RowTag) else None


def refuse_row_tag(extra: Mapping[str, Any] | None) -> None:
    """Refuse arguments of a request that is about to enter the engine: only the scheduler tags
    rows, on requests of its own.

    Raises:
        ValueError: a tag, or something in its place, is among them.
    """
    if extra and ROW_ARG in extra:
        raise ValueError(f"'{ROW_ARG}' is an internal argument; leave it out")


def model_of(row: Request) -> str | None:
    """The auxiliary model that computes a request; None is the base."""
    tag = RowTag.of(row.sampling_params)
    return tag.model if tag is not None else None


def slot_of(row: Request) -> Slot | None:
    """The adapter that a request takes a slot for, if it has one."""
    lora = row.lora_request
    return (model_of(row), lora.lora_int_id) if lora is not None else None


@dataclass(slots=True, eq=False)
class Gang:
    """The rows of one composed request, leader first, and how far they have come.

    Life: waiting (only the leader is queued, nothing is held) -> admitted (its rows join the batch
    and prefill up to their last known token) -> released (all rows decode in lock-step) -> gone.
    Preemption leads back to waiting.
    """

    rows: tuple[Request, ...]
    adapters: frozenset[Slot]
    models: frozenset[str | None]  # that compute its rows; None is the base, always among them
    # Whether the last token of the prompt has a step of its own, however short the prompt is.
    stops: bool = False
    admitted: bool = False
    released: bool = False
    adapter_names: frozenset[str] = frozenset()
    """The engine's names of its adapters."""
    arrived_s: float | None = None
    """When it came, on the scheduler's clock; None once it has been admitted."""
    refused_s: float | None = None
    """When it could not be admitted for the first time, on the scheduler's clock."""

    @property
    def leader(self) -> Request:
        return self.rows[0]

    @property
    def companions(self) -> tuple[Request, ...]:
        return self.rows[1:]

    def unjoined(self) -> list[Request]:
        """Rows that are not in the batch yet."""
        return [row for row in self.rows if row.status is not RequestStatus.RUNNING]

    def tokens(self) -> Counter[str | None]:
        """Tokens that the rows of each model have now."""
        tokens: Counter[str | None] = Counter()
        for row in self.rows:
            tokens[model_of(row)] += row.num_tokens
        return tokens

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


def expand(leader: Request, plan: EnginePlan, max_tokens: int, block_tokens: int) -> Gang:
    """The rows that compute `plan` for the request that vLLM knows as `leader`.

    `max_tokens` is common to all rows, so that the length limit ends them in the same step;
    `block_tokens` is the size of the blocks that the prefix cache has keys for. The
    companions sample nothing of their own (the sampler overwrites their tokens), and stop at
    nothing: the leader ends the group.
    """
    params = leader.sampling_params
    assert params is not None
    assert leader.prompt_token_ids is not None
    size = len(plan.rows)
    weights = tuple(row.weight for row in plan.rows)
    mixture, switch = plan.mixture, plan.switch
    # The likelihood of a prompt must be computed, whether or not its KV cache is there.
    anew = params.skip_reading_prefix_cache or (mixture is not None and mixture.reads_prompt)
    # The parameters are shared by the n answers to one request, hence the copy.
    params = copy.copy(params)
    params.extra_args = {k: v for k, v in (params.extra_args or {}).items() if k != ENGINE_ARG}
    params.extra_args[ROW_ARG] = RowTag(
        leader.request_id,
        0,
        size,
        mixture=mixture,
        weights=weights,
        filters=plan.filters,
        switch=switch,
        report=plan.report,
        explain=plan.explain,
    )
    leader.sampling_params = params
    leader.max_tokens = max_tokens
    leader.skip_reading_prefix_cache = bool(anew)
    if switch is not None:
        keep_answer_private(leader, block_tokens)

    rows = [leader]
    for index, row in enumerate(plan.rows[1:], start=1):
        adapter = row.adapter
        tag = RowTag(leader.request_id, index, size, row.model, mixture)
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
                    skip_reading_prefix_cache=anew,
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
    adapters = {slot for row in rows if (slot := slot_of(row)) is not None}
    if switch is not None:
        adapters.update((None, one.id) for one in switch.candidates if one is not None)
    named = [row.adapter for row in plan.rows] if switch is None else switch.candidates
    return Gang(
        tuple(rows),
        frozenset(adapters),
        frozenset(row.model for row in plan.rows),
        stops=switch is not None and switch.gate is not None,
        adapter_names=frozenset(one.name for one in named if one is not None),
    )


def keep_answer_private(request: Request, block_tokens: int) -> None:
    """Let nobody else find the blocks that hold the last token of the prompt and the answer.

    Which adapter computed a token of an answer depends on the router; vLLM's keys tell of one
    adapter per request. The blocks before are those of a plain request to that adapter. After a
    preemption the request finds its own again.
    """
    hasher, salt = request._block_hasher, request.request_id.encode()
    if hasher is None:  # the prefix cache is off
        return
    shared = (request.num_prompt_tokens - 1) // block_tokens

    def private(row: Request) -> list[BlockHash]:
        first = len(row.block_hashes)
        hashes = hasher(row)
        return [
            own if first + place < shared else BlockHash(sha256(salt + own).digest())
            for place, own in enumerate(hashes)
        ]

    request.block_hashes.clear()
    request._block_hasher = private
    request.update_block_hashes()
