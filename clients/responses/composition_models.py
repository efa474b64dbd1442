"""Models of stored compositions."""

from __future__ import annotations

from pydantic import Field, JsonValue

from clients.responses.wire_model import Wire


class CompositionChange(Wire):
    """One change of a stored composition.

    version: counts the changes of the name from 1; `if_match` refers to it.
    composition: as stored; None if it was deleted, or is private and belongs to another key.
    private: the composition contains prompts, which only its owner may read.
    owner, actor: visible to the owner and to administrators.
    """

    name: str
    version: int
    action: str
    time: str
    composition: JsonValue = None
    private: bool = False
    owner: str | None = None
    actor: str | None = None
    origin: dict[str, JsonValue] = Field(default_factory=dict)


class StoredComposition(CompositionChange):
    """Present state of a name: its plan, or the error why the composition has none any more."""

    plan: dict[str, JsonValue] | None = None
    error: str | None = None


class StoredCompositionList(Wire):
    data: tuple[StoredComposition, ...]


class CompositionHistory(Wire):
    data: tuple[CompositionChange, ...]
