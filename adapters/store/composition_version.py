"""One change of one stored composition: an entry of the journal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import Field, JsonValue, SkipValidation, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass

from adapters.errors import AdapterStoreError
from adapters.store.version import RECORD, Action, Count
from composer.validation import validate

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
"""Names of compositions: what an adapter of the base model may be called, too."""

MAX_COMPOSITION_BYTES = 64 * 2**10
"""Of a composition as JSON: every version of it is a line of the journal, and stays in memory."""

_ACTIONS = (Action.PUBLISH, Action.ROLLBACK, Action.DELETE)


@dataclass(frozen=True, slots=True, config=RECORD)
class CompositionVersion:
    """The state of a stored composition after a change, and who made the change."""

    sequence: Count
    """Line of the journal, from 1, over all adapters and compositions."""

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    """The journal calls it `composition`, which tells such a line from an adapter's."""

    number: Count
    """From 1 within the name, without gaps; it goes on when a deleted name comes back."""

    action: Action
    """PUBLISH, ROLLBACK or DELETE."""

    content: SkipValidation[JsonValue] = field(hash=False)
    """The composition as its owner wrote it; None if it is deleted."""

    owner: str
    """Name of the key that may change it, and that sees its prompts."""

    time: str
    """UTC, ISO 8601. For people: nothing is ordered by it."""

    actor: str
    """Who made the change, in the words of the caller."""

    origin: Mapping[str, Any] = field(hash=False)
    """`{"rollback_to": 3}` or empty."""

    @model_validator(mode="after")
    def _check_content(self) -> CompositionVersion:
        deleted = self.action is Action.DELETE
        if self.action not in _ACTIONS or (self.content is None) != deleted:
            raise ValueError(f"content is {self.content!r} after a {self.action}")
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the line of the journal, which `from_json` reads."""
        fields = _ADAPTER.dump_python(self)
        return {"composition" if key == "name" else key: fields[key] for key in fields}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CompositionVersion:
        """Read a line of the journal.

        Raises:
            AdapterStoreError: a field is missing, unknown, or has a wrong value.
        """
        fields = {"name" if key == "composition" else key: value[key] for key in value}
        return validate(_ADAPTER, fields, "", AdapterStoreError)


_ADAPTER = TypeAdapter(CompositionVersion)
