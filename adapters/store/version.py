"""One change of one alias: an entry of the journal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum

from adapters.generation import ALIAS
from adapters.store.json_fields import typed
from adapters.store.policy import Policy
from adapters.store.profile import EMPTY_PROFILE, Profile

DIGEST = re.compile(r"[0-9a-f]{64}")
"""sha256 of the content of an adapter."""


class Action(StrEnum):
    """What happened to the alias."""

    PUBLISH = "publish"
    ROLLBACK = "rollback"
    DELETE = "delete"
    POLICY = "policy"
    PROFILE = "profile"


@dataclass(frozen=True, slots=True)
class Version:
    """The state of an alias after a change, and who made the change."""

    sequence: int
    """Line of the journal, from 1, over all aliases: the order of all changes."""

    alias: str

    number: int
    """From 1 within the alias, without gaps; it goes on when a deleted alias comes back."""

    action: Action

    digest: str | None
    """The content that the alias stands for; None: the alias is deleted."""

    policy: Policy

    time: str
    """UTC, ISO 8601. For people: clocks are set back, so nothing is ordered by it."""

    actor: str
    """Who made the change, in the words of the caller."""

    origin: Mapping[str, object] = field(hash=False)
    """Where the content came from: `{"source": …}`, `{"merge": …}`, `{"rollback_to": 3}`."""

    profile: Profile = EMPTY_PROFILE
    """What the adapter is for."""

    def to_json(self) -> dict[str, object]:
        """The object that `from_json` reads."""
        return {
            "sequence": self.sequence,
            "alias": self.alias,
            "number": self.number,
            "action": self.action.value,
            "digest": self.digest,
            "policy": self.policy.to_json(),
            "time": self.time,
            "actor": self.actor,
            "origin": dict(self.origin),
            "profile": self.profile.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Version:
        """The version that `value` describes, every field of it.

        Raises:
            ValueError: a field is missing, unknown, or has a wrong value.
            PolicyError: the same of the policy.
            ProfileError: the same of the profile, which may be missing: there were none at first.
        """
        names = {entry.name for entry in fields(cls)}
        if value.keys() | {"profile"} != names:
            raise ValueError(f"it is no object with the fields {', '.join(sorted(names))}")
        action = Action(typed(value, "action", str))
        digest = None if action is Action.DELETE else typed(value, "digest", str)
        if digest != value["digest"] or (digest is not None and not DIGEST.fullmatch(digest)):
            raise ValueError(f"digest is {value['digest']!r} after a {action}")
        if not ALIAS.fullmatch(typed(value, "alias", str)):
            raise ValueError(f"alias is {value['alias']!r}")
        return cls(
            sequence=typed(value, "sequence", int),
            alias=typed(value, "alias", str),
            number=typed(value, "number", int),
            action=action,
            digest=digest,
            policy=Policy.from_json(value["policy"]),
            time=typed(value, "time", str),
            actor=typed(value, "actor", str),
            origin=typed(value, "origin", dict),
            profile=Profile.from_json(value.get("profile", {})),
        )
