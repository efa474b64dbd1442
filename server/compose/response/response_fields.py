"""What answers say about how they were computed: which model was asked for, what was routed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeAlias

Routed: TypeAlias = Callable[[int | None], Awaitable[dict[str, Any]]]
"""What the router did, known once the answer is complete; takes the length of the answer in tokens
where there is one answer and that is known."""

Seen: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Gets each answer, or chunk of one, that may tell the usage."""

Compared: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
"""What others answer to the same request."""


@dataclass(frozen=True, slots=True)
class Decoration:
    """What the answers of one request say about it.

    model: as it was asked for.
    composition: where the request had one.
    adapters: digests by alias, where the answer is to tell which generations computed it.
    routed, compared: asked once, when the answer is complete.
    aliases: by the engine's names of the adapters, which clients do not see.
    seen: called with what tells the usage.
    hides_usage: whether the closing usage of a stream is for `seen` only.
    """

    model: str
    composition: dict[str, Any] | None
    adapters: dict[str, str] | None = None
    routed: Routed | None = None
    compared: Compared | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    seen: Seen | None = None
    hides_usage: bool = False

    @property
    def affinity(self) -> str | None:
        """What requests to the same adapters have in common; None for the base alone.

        A gateway that hashes it sends them to the same replica.
        """
        if not self.adapters:
            return None
        digests = ",".join(sorted(self.adapters.values()))
        return sha256(digests.encode()).hexdigest()[:16]

    async def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """A complete answer."""
        self.see(answer)
        choices = answer.get("choices")
        single = not isinstance(choices, list) or len(choices) == 1
        told = self.named(answer) | await self._told(_length(answer) if single else None)
        return told | ({"comparison": await self.compared()} if self.compared else {})

    async def last(self, chunk: dict[str, Any], *, single: bool) -> dict[str, Any]:
        """The chunk that tells how all of a stream was computed; `single`: it is one answer."""
        self.see(chunk)
        return self.named(chunk) | await self._told(_length(chunk) if single else None)

    def see(self, answer: Mapping[str, Any]) -> None:
        """Show the answer to whoever counts its tokens."""
        if self.seen is not None:
            self.seen(answer)

    def first(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """The first chunk of a stream: it tells what is known in advance."""
        return self.named(chunk) | self._known()

    def named(self, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer or a chunk that tells nothing more."""
        return {k: self.model if k == "model" else v for k, v in answer.items()}

    def without_engine_names(self, error: bytes) -> bytes:
        """The text of an error with aliases in place of the engine's names."""
        for name, alias in self.aliases.items():
            error = error.replace(name.encode(), alias.encode())
        return error

    def _known(self) -> dict[str, Any]:
        told: dict[str, Any] = {}
        if self.composition is not None:
            told["composition"] = self.composition
        if self.adapters:
            told["adapters"] = self.adapters
        return told

    async def _told(self, length: int | None) -> dict[str, Any]:
        told = self._known()
        if self.routed is not None and self.composition is not None:
            told["composition"] = self.composition | {"routing": await self.routed(length)}
        return told


def _length(answer: dict[str, Any]) -> int | None:
    """How many tokens the answer has, as its usage says."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    length = usage.get("completion_tokens", usage.get("output_tokens"))
    return length if isinstance(length, int) else None
