"""The engine and vLLM's application as the server uses them, in plain types.

`server.engine.vllm` is the implementation; nothing else in the server depends on vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from starlette.responses import Response

from adapters import Generation
from composer.capacity import ModelCapacity
from composer.engine_plan import EnginePlan
from server.engine.render_cache import RenderCache

Body: TypeAlias = dict[str, Any]
"""The decoded JSON object of a request."""

Tokens: TypeAlias = tuple[int, ...]


class Kind(StrEnum):
    """The routes that understand compositions; the value is the path."""

    CHAT = "/v1/chat/completions"
    COMPLETION = "/v1/completions"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"
    COUNT_TOKENS = "/v1/messages/count_tokens"
    TOKENIZE = "/tokenize"
    DETOKENIZE = "/detokenize"

    @property
    def generates(self) -> bool:
        """Whether the route answers with generated text; the others only count or show tokens."""
        return self not in (Kind.COUNT_TOKENS, Kind.TOKENIZE, Kind.DETOKENIZE)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one model of the engine can hold for one request.

    model: context, adapter slots and KV cache.
    rows: rows of all models that run at once (`max_num_active_seqs`, otherwise `max_num_seqs`).
    max_rank: largest rank of an adapter (`max_lora_rank`); 0 if the model can have none.
    adapters_in_memory: adapters that stay in memory (`max_cpu_loras`).
    """

    model: ModelCapacity
    rows: int
    max_rank: int = 0
    adapters_in_memory: int = 0


@dataclass(frozen=True, slots=True)
class RenderedRequest:
    """A request that vLLM has validated and rendered.

    prompts: token ids of its prompts, usually one.
    max_tokens: requested length of the answer, in tokens; None if the client set none.
    kind: `CHAT` or `COMPLETION`, the form of `body`.
    body: the request in that form, whatever its route; it renders to the same prompts.
    scoring_field: the field that asks for logprobs of the prompt; None if none does.
    cache: results of vLLM's renderer; active while the route runs, it spares a second rendering.
    """

    prompts: tuple[Tokens, ...]
    max_tokens: int | None
    kind: Kind
    body: Body
    scoring_field: str | None
    cache: RenderCache


@dataclass(frozen=True, slots=True)
class Probe:
    """The likeliest next tokens after a prompt.

    prompt: token ids.
    logprobs: log-probability (nats) by token id.
    dtype: in which the engine computes: `float32`, `bfloat16`, ...
    """

    prompt: Tokens
    logprobs: Mapping[int, float]
    dtype: str


@dataclass(frozen=True, slots=True)
class RoutingTrace:
    """The routing of one answer.

    weights: of each row, its mean weight over the answer; of each candidate of a switch, the share
        of the tokens that it computed.
    tokens: if explanations are requested, for each token the weights of all rows or the index of
        the candidate that computed it.
    """

    weights: tuple[float, ...]
    tokens: tuple[tuple[float, ...] | int, ...] = ()


@dataclass(frozen=True, slots=True)
class ExplainedPart:
    """What has become known of one answer since it was asked for last.

    name: of the answer in the engine.
    prompt, number: the number of its prompt, and its own among the answers to that.
    tokens: for each what `composer.tensors.explain_kernel.ExplainedShape.read` returns; of a
        switch also the `candidate` that computed it.
    more: whether there are more, which the next call returns.
    """

    name: str
    prompt: int
    number: int
    tokens: list[Body]
    more: bool


class RefusedError(Exception):
    """vLLM refuses the request; the client gets `response`, vLLM's answer, unchanged."""

    def __init__(self, response: Response) -> None:
        super().__init__(json.loads(bytes(response.body))["error"]["message"])
        self.response = response


class PromptOverflowError(Exception):
    """A prompt is longer than the context; the message is vLLM's."""


class Engine(Protocol):
    """vLLM, as the rest of the server sees it."""

    @property
    def base_names(self) -> tuple[str, ...]:
        """The names under which vLLM serves the base model, its own answers' name first."""

    @property
    def version(self) -> str:
        """The release of vLLM, such as `0.32.0`."""

    @property
    def started(self) -> int:
        """When the engine was loaded, in seconds since the epoch."""

    @property
    def capacities(self) -> Mapping[str | None, Capacity]:
        """The capacity of each auxiliary model by name, and of the base model under None."""

    @property
    def alive(self) -> bool:
        """Whether the engine can answer; an engine that has died stays dead."""

    async def load(self, generation: Generation) -> None:
        """Load an adapter into memory while the engine runs, and register its name.

        Raises:
            AdapterError: vLLM does not load it.
        """

    async def try_slot(self, generation: Generation) -> None:
        """Put a loaded adapter into a slot. Raise `AdapterError` if it does not fit."""

    async def shift(self, generation: Generation) -> float | None:
        """Return how far an adapter moves a next-token logit of a fixed prompt at most, in nats.

        0 if adapter and base give the same logits up to a constant; NaN or infinite if the
        adapter's logits are; None if the engine runs one row at a time and cannot compare them.
        """

    async def probe(self, generation: Generation) -> Probe:
        """Return what the adapter predicts after the fixed prompt."""

    async def retire(self, generation: Generation) -> None:
        """Remove an adapter from memory once no request of the engine computes with it."""

    async def render(self, kind: Kind, body: Body) -> RenderedRequest:
        """Validate a request to a route that generates, and tokenize its prompts.

        Raises:
            RefusedError: vLLM would answer the request with this error.
            UnsupportedError: an option that works on ordinary requests only.
        """

    async def tokenize(self, kind: Kind, body: Body, chat_template: str | None = None) -> Tokens:
        """Return the token ids of the one prompt of a request.

        Args:
            kind: `CHAT` or `COMPLETION`.
            body: a request of this kind.
            chat_template: renders the conversation in place of the base model's template.

        Raises:
            RefusedError: vLLM would answer such a request with this error.
            PromptOverflowError: the prompt does not fit the context.
        """

    async def refusal(self, error: Exception) -> str | None:
        """Return vLLM's message to the client about an error; None if the server is at fault."""

    async def load_gate(self, path: Path) -> None:
        """Load a gate file before its first request. Raise `ValueError` if the file is invalid."""

    async def routing_traces(
        self, report_id: str, answer_tokens: int | None = None
    ) -> tuple[RoutingTrace, ...]:
        """Return and forget the trace of each answer to the request with this `report_id`.

        Empty if the weights never change. `answer_tokens`: length of the answer if there is one.
        """

    async def explained_parts(
        self, report_id: str, seen: Mapping[str, int], *, last: bool
    ) -> Sequence[ExplainedPart]:
        """Return what is known of the answers to the request with this `Explaining.report_id`.

        Args:
            report_id: of the request's plan.
            seen: how many tokens of each answer are known already, by the answer's name.
            last: the answers are complete; forget them once there are no more tokens.
        """

    async def drop_explanation(self, report_id: str) -> None:
        """Forget the answers to a request of which nobody will ask for more."""

    async def score(self, tokens: Tokens, plan: EnginePlan) -> dict[str, Any]:
        """Return what `plan.scoring` asks of the last of these tokens
        (`composer.vllm.execute.scoring.score_account.ScoreAccount.report`).

        Raises:
            EngineFault: the engine has lost the text.
        """

    def check_tokens(self, tokens: Tokens) -> None:
        """Raise `ValueError` if an id is not in the vocabulary."""

    def detokenize(self, tokens: Tokens) -> str:
        """Return the text of tokens that are in the vocabulary."""

    async def figures(self) -> dict[str, Any]:
        """Return the scheduler's counters since the start (`ComposerWorker.composer_stats`).

        Empty before the first step.
        """

    def base_cards(self) -> list[Body]:
        """Return vLLM's entries of `/v1/models` for the base model."""
