"""One change of one stored composition: an entry of the journal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TypeAlias

from adapters.store.json_fields import typed
from adapters.store.version import Action

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
"""Names of compositions: what an adapter of the base model may be called, too."""

MOST_BYTES = 64 * 2**10
"""Of a composition as JSON: every version of it is a line of the journal, and stays in memory."""

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

_ACTIONS = (Action.PUBLISH, Action.ROLLBACK, Action.DELETE)
_KEYS = {"name": "composition"}
"""Fields that the journal calls otherwise: `composition` tells such a line from an adapter's."""


@dataclass(frozen=True, slots=True)
class CompositionVersion:
    """The state of a stored composition after a change, and who made the change."""

    sequence: int
    """Line of the journal, from 1, over all adapters and compositions."""

    name: str

    number: int
    """From 1 within the name, without gaps; it goes on when a deleted name comes back."""

    action: Action
    """PUBLISH, ROLLBACK or DELETE."""

    content: Json = field(hash=False)
    """The composition as its owner wrote it; None: it is deleted."""

    owner: str
    """Name of the key that may change it, and that sees its prompts."""

    time: str
    """UTC, ISO 8601. For people: nothing is ordered by it."""

    actor: str
    """Who made the change, in the words of the caller."""

    origin: Mapping[str, object] = field(hash=False)
    """`{"rollback_to": 3}` or empty."""

    def to_json(self) -> dict[str, object]:
        """The object that `from_json` reads: a line of the journal."""
        return {
            "sequence": self.sequence,
            "composition": self.name,
            "number": self.number,
            "action": self.action.value,
            "content": self.content,
            "owner": self.owner,
            "time": self.time,
            "actor": self.actor,
            "origin": dict(self.origin),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> CompositionVersion:
        """The version that `value` describes, every field of it.

        Raises:
            ValueError: a field is missing, unknown, or has a wrong value.
        """
        names = {_KEYS.get(entry.name, entry.name) for entry in fields(cls)}
        if value.keys() != names:
            raise ValueError(f"it is no object with the fields {', '.join(sorted(names))}")
        action = Action(typed(value, "action", str))
        content = value["content"]
        if action not in _ACTIONS or (content is None) != (action is Action.DELETE):
            raise ValueError(f"content is {content!r} after a {action}")
        if not NAME.fullmatch(typed(value, "composition", str)):
            raise ValueError(f"composition is {value['composition']!r}")
        return cls(
            sequence=typed(value, "sequence", int),
            name=typed(value, "composition", str),
            number=typed(value, "number", int),
            action=action,
            content=content,  # type: ignore[arg-type]  # it was read from JSON
            owner=typed(value, "owner", str),
            time=typed(value, "time", str),
            actor=typed(value, "actor", str),
            origin=typed(value, "origin", dict),
        )
