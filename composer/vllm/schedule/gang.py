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

from composer.engine_plan import (
    ENGINE_ARG,
    ROW_ARG,
    EnginePlan,
    Explaining,
    LoadedAdapter,
    MixtureParameters,
    Scoring,
    Switch,
)
from composer.errors import CompositionError
from composer.filters import Filter

Slot: TypeAlias = tuple[str | None, int]
"""An adapter in use: the auxiliary model it belongs to (None: the base) and its lora_int_id."""


@dataclass(frozen=True, slots=True)
class RowTag:
    """What the workers must know of a row of a gang.

    `index` is the row's place in the order of `EnginePlan.rows`, which scheduler, workers and
    tensors share; row 0 is the leader. `weights`, `filters`, `switch`, `report_id`, `explain`,
    `log_softmax`, `scored`, `scoring` and `explanation` are set on the leader's tag only.
    """

    gang: str  # request id of the leader
    index: int
    size: int  # rows of the gang
    model: str | None = None  # the auxiliary model that computes the row; None: the base
    mixture: MixtureParameters | None = None
    weights: tuple[float, ...] = ()
    filters: tuple[Filter, ...] = ()
    switch: Switch | None = None
    report_id: str | None = None
    explain: bool = False
    log_softmax: bool = False
    scored: int = 0  # tokens at the end of the prompt whose log-probabilities are asked for
    scoring: Scoring | None = None
    explanation: Explaining | None = None

    @staticmethod
    def of(params: SamplingParams | None) -> RowTag | None:
        """Return the tag of a row; None for a plain request, and for one with a foreign value in
        the tag's place."""
        extra: Mapping[str, Any] | None = params.extra_args if params is not None else None
        tag = extra.get(ROW_ARG) if extra else None
        return tag if isinstance(tag, RowTag) else None


def refuse_row_tag(extra: Mapping[str, Any] | None) -> None:
    """Check the arguments of a request that is about to enter the engine.

    Raises:
        ValueError: there is a tag among them: only the scheduler tags rows.
    """
    if extra and ROW_ARG in extra:
        raise ValueError(f"'{ROW_ARG}' is an internal argument; leave it out")


def model_of(row: Request) -> str | None:
    """Return the auxiliary model that computes a request; None for the base."""
    tag = RowTag.of(row.sampling_params)
    return tag.model if tag is not None else None


def slot_of(row: Request) -> Slot | None:
    """Return the adapter that a request takes a slot for; None if it has no adapter."""
    lora = row.lora_request
    return (model_of(row), lora.lora_int_id) if lora is not None else None


def lora_request(adapter: LoadedAdapter) -> LoRARequest:
    """Return an adapter as vLLM names it."""
    return LoRARequest(adapter.name, adapter.id, adapter.path)


@dataclass(slots=True, eq=False)
class Gang:
    """The rows of one composed request, leader first, and how far they have come.

    Life: waiting (only the leader is queued, nothing is held) -> admitted (its rows join the batch
    and prefill up to their barrier) -> released (all rows advance in lock-step) -> gone. Preemption
    leads back to waiting. The barrier is before the last known token, or before the part of the
    prompt that is scored: the rows then compute that part in equal chunks.
    """

    rows: tuple[Request, ...]
    adapters: frozenset[Slot]
    adapter_names: frozenset[str]  # the engine's names of `adapters`
    models: frozenset[str | None]  # that compute its rows; always with None, the base
    one_by_one: bool = False
    """Whether each token after the barrier has a step of its own: by the one before it a gate
    chooses the adapter."""
    scored: int = 0
    """Tokens at the end of every row's prompt whose log-probabilities are asked for."""
    chunk: int = 1
    """Tokens that each of the released rows computes in the step in progress."""
    admitted: bool = False
    released: bool = False
    arrived_s: float | None = None
    """Time of arrival on the scheduler's clock; None after the first admission."""
    refused_s: float | None = None
    """Time at which the gang first did not fit, on the scheduler's clock."""

    @property
    def leader(self) -> Request:
        return self.rows[0]

    @property
    def companions(self) -> tuple[Request, ...]:
        return self.rows[1:]

    @property
    def after_barrier(self) -> int:
        """How many known tokens each row computes after the barrier. What was scored before a
        preemption need not be scored again."""
        return 1 if self.leader.num_output_tokens else 1 + self.scored

    def unjoined(self) -> list[Request]:
        """Return the rows that are not in the batch yet."""
        return [row for row in self.rows if row.status is not RequestStatus.RUNNING]

    def tokens(self) -> Counter[str | None]:
        """Count the tokens that the rows of each model have now."""
        tokens: Counter[str | None] = Counter()
        for row in self.rows:
            tokens[model_of(row)] += row.num_tokens
        return tokens

    def at_barrier(self) -> bool:
        """Return whether every row has computed all that comes before the barrier.

        A row with nothing before the barrier, such as one of a single token, joins at the release.
        """
        left = self.after_barrier
        return all(
            row.num_tokens - row.num_computed_tokens == left
            if row.status is RequestStatus.RUNNING
            else row.num_tokens == left
            for row in self.rows
        )

    def joins_early(self, row: Request) -> bool:
        """Return whether a row has tokens to compute before the barrier."""
        return row.num_tokens > self.after_barrier


def lateness(row: Request) -> tuple[int, float]:
    """Return a key for vLLM's order of preemption under its priority policy; under first come,
    first served all priorities are equal."""
    return (row.priority, row.arrival_time)


def tokens_left(row: Request) -> int:
    """Count the tokens that a running row has left to compute, as vLLM's scheduler does.

    Zero if, under async scheduling, the step in flight will produce its last token.
    """
    placeholders = row.num_output_placeholders
    if placeholders > 0 and (
        row.num_computed_tokens + 2 - placeholders >= row.num_prompt_tokens + row.max_tokens
    ):
        return 0
    return row.num_tokens + placeholders - row.num_computed_tokens


def expand(leader: Request, plan: EnginePlan, max_tokens: int, block_tokens: int) -> Gang:
    """Return the rows that compute `plan`, and make vLLM's request the leader of them.

    Companions sample nothing (the sampler overwrites their tokens) and stop at nothing: the leader
    ends the gang.

    Raises:
        CompositionError: the rows' prompts do not end with the tokens that are to be scored.

    Args:
        leader: the request as vLLM knows it; changed in place.
        plan: gives the rows and their order.
        max_tokens: of the answer, common to all rows, so that the length limit ends them in one
            step.
        block_tokens: tokens in a block that the prefix cache has a key for.
    """
    params = leader.sampling_params
    assert params is not None
    # The parameters are shared by the n answers to one request, hence the copy.
    params = leader.sampling_params = copy.copy(params)
    mixture, switch, size = plan.mixture, plan.switch, len(plan.rows)
    scored = scored_tokens(leader, plan)
    params.extra_args = {k: v for k, v in (params.extra_args or {}).items() if k != ENGINE_ARG}
    params.extra_args[ROW_ARG] = RowTag(
        leader.request_id,
        0,
        size,
        mixture=mixture,
        weights=tuple(row.weight for row in plan.rows),
        filters=plan.filters,
        switch=switch,
        report_id=plan.report_id,
        explain=plan.explain,
        # It shifts the composed row by a constant, which nothing but this penalty can tell.
        log_softmax=plan.log_softmax and params.repetition_penalty != 1.0,
        scored=scored,
        scoring=plan.scoring,
        explanation=plan.explanation,
    )
    leader.max_tokens = max_tokens
    # The likelihood of a prompt must be computed, whether or not its KV cache is there. What is
    # scored lies behind the barrier, and no hit passes that.
    leader.skip_reading_prefix_cache = (mixture is not None and mixture.reads_prompt) or bool(
        params.skip_reading_prefix_cache and params.prompt_logprobs is None
    )
    if switch is not None:
        keep_answer_private(leader, leader.num_prompt_tokens - scored, block_tokens)
    rows = (leader, *(_companion(leader, plan, k) for k in range(1, size)))
    slots = {slot for row in rows if (slot := slot_of(row)) is not None}
    adapters = [row.adapter for row in plan.rows]
    if switch is not None:
        adapters = list(switch.candidates)
        slots.update((None, adapter.id) for adapter in adapters if adapter is not None)
    return Gang(
        rows,
        frozenset(slots),
        frozenset(adapter.name for adapter in adapters if adapter is not None),
        frozenset(row.model for row in plan.rows),
        one_by_one=switch is not None and switch.gate is not None,
        scored=scored,
    )


def scored_tokens(leader: Request, plan: EnginePlan) -> int:
    """Return how many tokens at the end of the prompt are scored.

    Raises:
        CompositionError: a row's prompt does not end with them, or consists of nothing else.
    """
    assert leader.sampling_params is not None
    assert leader.prompt_token_ids is not None
    prompt, most = leader.prompt_token_ids, leader.num_prompt_tokens - 1
    if leader.sampling_params.prompt_logprobs is None:
        return 0
    scored = most if plan.scoring is None else plan.scoring.tokens
    if scored > most:
        raise CompositionError(f"{scored} tokens cannot be scored in a prompt of {most + 1}")
    for index, row in enumerate(plan.rows):
        own = row.prompt_token_ids
        if (
            own is not None
            and scored
            and (len(own) <= scored or list(own[-scored:]) != prompt[-scored:])
        ):
            raise CompositionError(
                f"the prompt of member {index} does not end with the {scored} tokens that are "
                "scored, after at least one other"
            )
    return scored


def _companion(leader: Request, plan: EnginePlan, index: int) -> Request:
    """Return the request that computes row `index` of a plan beside its leader."""
    row = plan.rows[index]
    prompt = leader.prompt_token_ids if row.prompt_token_ids is None else row.prompt_token_ids
    assert prompt is not None
    tag = RowTag(leader.request_id, index, len(plan.rows), row.model, plan.mixture)
    return Request(
        request_id=f"{leader.request_id}#{index}",
        prompt_token_ids=list(prompt),
        sampling_params=SamplingParams(
            temperature=0.0,
            max_tokens=leader.max_tokens,
            ignore_eos=True,
            detokenize=False,
            skip_reading_prefix_cache=leader.skip_reading_prefix_cache,
            extra_args={ROW_ARG: tag},
        ),
        pooling_params=None,
        client_index=leader.client_index,
        arrival_time=leader.arrival_time,
        lora_request=lora_request(row.adapter) if row.adapter else None,
        cache_salt=leader.cache_salt,
        priority=leader.priority,
        block_hasher=leader._block_hasher,
    )


def keep_answer_private(request: Request, prompt_tokens: int, block_tokens: int) -> None:
    """Share no block that holds the last of `prompt_tokens` or a token after them, which is of the
    answer or scored as one.

    Which adapter computed a token of an answer depends on the router, and vLLM's block keys contain
    one adapter per request. The blocks before are those of a plain request to that adapter. After a
    preemption the request finds its own blocks again.
    """
    hasher, salt = request._block_hasher, request.request_id.encode()
    if hasher is None:  # the prefix cache is off
        return
    shared = (prompt_tokens - 1) // block_tokens

    def private(row: Request) -> list[BlockHash]:
        first = len(row.block_hashes)
        return [
            key if block < shared else BlockHash(sha256(salt + key).digest())
            for block, key in enumerate(hasher(row), start=first)
        ]

    request.block_hashes.clear()
    request._block_hasher = private
    request.update_block_hashes()
