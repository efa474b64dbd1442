"""One change of one alias: an entry of the journal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass

from adapters.errors import AdapterStoreError
from adapters.generation import ALIAS
from adapters.store.policy import Policy
from adapters.store.profile import EMPTY_PROFILE, Profile
from composer.validation import validate

DIGEST = re.compile(r"[0-9a-f]{64}")
"""sha256 of the content of an adapter."""

RECORD = ConfigDict(extra="forbid", use_attribute_docstrings=True)
Count = Annotated[int, Field(strict=True)]


class Action(StrEnum):
    """What happened to the name."""

    PUBLISH = "publish"
    ROLLBACK = "rollback"
    DELETE = "delete"
    POLICY = "policy"
    PROFILE = "profile"


@dataclass(frozen=True, slots=True, config=RECORD)
class Version:
    """The state of an alias after a change, and who made the change."""

    sequence: Count
    """Line of the journal, from 1, over all aliases: the order of all changes."""

    alias: Annotated[str, Field(pattern=f"^(?:{ALIAS.pattern})$")]

    number: Count
    """From 1 within the alias, without gaps; it goes on when a deleted alias comes back."""

    action: Action

    digest: Annotated[str, Field(pattern=f"^{DIGEST.pattern}$")] | None
    """The content that the alias stands for; None if the alias is deleted."""

    policy: Policy

    time: str
    """UTC, ISO 8601. For people: clocks are set back, so nothing is ordered by it."""

    actor: str
    """Who made the change, in the words of the caller."""

    origin: Mapping[str, Any] = field(hash=False)
    """Where the content came from: `{"source": …}`, `{"merge": …}`, `{"rollback_to": 3}`."""

    profile: Profile = EMPTY_PROFILE
    """What the adapter is for. Journals written before there were profiles have none."""

    @model_validator(mode="after")
    def _check_content(self) -> Version:
        if (self.digest is None) != (self.action is Action.DELETE):
            raise ValueError(f"digest is {self.digest!r} after a {self.action}")
        return self

    @property
    def name(self) -> str:
        """Return the alias."""
        return self.alias

    @property
    def content(self) -> str | None:
        """Return the digest; None if the alias is deleted."""
        return self.digest

    def to_json(self) -> dict[str, Any]:
        """Return the line of the journal, which `from_json` reads."""
        line: dict[str, Any] = _ADAPTER.dump_python(self)
        return line

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Version:
        """Read a line of the journal.

        Raises:
            AdapterStoreError: a field is missing, unknown, or has a wrong value.
        """
        return validate(_ADAPTER, value, "", AdapterStoreError)


_ADAPTER = TypeAdapter(Version)
