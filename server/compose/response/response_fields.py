"""The fields that responses have beside vLLM's own: composition, adapters, routing, comparison."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeAlias

from server.compose.response.explanation import Explainer

RoutingField: TypeAlias = Callable[[int | None], Awaitable[dict[str, Any]]]
"""Returns the field `routing` once the response is complete; takes the length of the answer in
tokens, or None where there are several answers or the length is unknown."""

UsageObserver: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Is called with each response or chunk that may have the field `usage`."""

ComparisonField: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
"""Returns the field `comparison`: what other models answer to the same request."""


@dataclass(frozen=True, slots=True)
class ResponseFields:
    """What this server writes into the response to one request.

    model: the value of `model` in the request, which replaces the engine's name.
    composition: the field `composition`; None where nothing was composed.
    adapters: digests by alias; None where the response does not show them.
    routing, comparison: called once, when the response is complete.
    explainer: explains the answers; None where nobody asked for it.
    aliases: aliases by engine name; clients see aliases only.
    observe_usage: called with everything that may have the field `usage`.
    hides_usage: whether to drop the closing usage of a stream, because the client did not ask for
        it.
    """

    model: str
    composition: dict[str, Any] | None
    adapters: dict[str, str] | None = None
    routing: RoutingField | None = None
    comparison: ComparisonField | None = None
    explainer: Explainer | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    observe_usage: UsageObserver | None = None
    hides_usage: bool = False

    @property
    def reports_at_end(self) -> bool:
        """Whether the final chunk of a stream has fields that no other has."""
        return self.routing is not None or self.explainer is not None

    async def close(self) -> None:
        """Release what the engine keeps for a response that may have ended early."""
        if self.explainer is not None:
            await self.explainer.close()

    @property
    def affinity(self) -> str | None:
        """A hash of the adapters of a request; None for the base model alone.

        A gateway that hashes it sends requests with the same adapters to the same replica.
        """
        return affinity_of(self.adapters) if self.adapters else None

    async def annotate(self, response: dict[str, Any]) -> dict[str, Any]:
        """Return a complete response with all fields."""
        self.observe(response)
        choices = response.get("choices")
        single = not isinstance(choices, list) or len(choices) == 1
        annotated = await self._complete(response, answer_tokens(response) if single else None)
        if self.comparison is not None:
            annotated["comparison"] = await self.comparison()
        return annotated

    def first_chunk(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Return the first chunk of a stream with the fields that are known in advance."""
        return self.rename_model(chunk) | self._known_fields()

    async def next_chunk(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Return a chunk with what has become known of the explanation."""
        known = None if self.explainer is None else await self.explainer.more()
        return chunk if known is None else chunk | {"explanation": known}

    async def final_chunk(
        self, chunk: dict[str, Any], tokens: int | None, *, single: bool
    ) -> dict[str, Any]:
        """Return the final chunk of a stream, with the routing of the whole answer, and the rest of
        its explanation.

        Args:
            chunk: as vLLM sends it.
            tokens: of the answer, if that is known.
            single: whether the stream has one answer.
        """
        return await self._complete(chunk, tokens if single else None)

    def rename_model(self, response: dict[str, Any]) -> dict[str, Any]:
        """Return a response or chunk in the name of the requested model."""
        return {k: self.model if k == "model" else v for k, v in response.items()}

    def observe(self, response: Mapping[str, Any]) -> None:
        """Pass a response or chunk to `observe_usage`."""
        if self.observe_usage is not None:
            self.observe_usage(response)

    def without_engine_names(self, error: bytes) -> bytes:
        """Return the text of an error with aliases in place of engine names."""
        for name, alias in self.aliases.items():
            error = error.replace(name.encode(), alias.encode())
        return error

    def _known_fields(self) -> dict[str, Any]:
        known: dict[str, Any] = {}
        if self.composition is not None:
            known["composition"] = self.composition
        if self.adapters:
            known["adapters"] = self.adapters
        return known

    async def _complete(self, response: dict[str, Any], tokens: int | None) -> dict[str, Any]:
        annotated = self.rename_model(response) | self._known_fields()
        if self.explainer is not None:
            annotated["explanation"] = await self.explainer.rest(tokens)
        if self.routing is not None and self.composition is not None:
            annotated["composition"] = self.composition | {"routing": await self.routing(tokens)}
        return annotated


def affinity_of(adapters: Mapping[str, str]) -> str:
    """Return the hash of adapters, given their digests by alias."""
    digests = ",".join(sorted(adapters.values()))
    return sha256(digests.encode()).hexdigest()[:16]


def answer_tokens(response: dict[str, Any]) -> int | None:
    """Return the length of the answer in tokens, from the field `usage`."""
    usage = response.get("usage")
    if not isinstance(usage, dict):
        return None
    tokens = usage.get("completion_tokens", usage.get("output_tokens"))
    return tokens if isinstance(tokens, int) else None
