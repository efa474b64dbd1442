"""Questions to the history of a name: its versions, oldest first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from adapters.errors import AdapterError, VersionConflictError
from adapters.generation import ALIAS, ALIAS_RULE
from adapters.store.composition_version import CompositionVersion
from adapters.store.version import Action, Version
from composer.errors import ComposerError, quoted
from composer.fields import BASE

_Version = TypeVar("_Version", Version, CompositionVersion)


def check_alias(alias: str) -> None:
    """Raise `AdapterError` if `alias` cannot be one."""
    if alias == BASE:
        raise AdapterError(alias, None, "the name is that of the base model", "Choose another name")
    if not ALIAS.fullmatch(alias):
        raise AdapterError(
            alias,
            None,
            f"the name is not of {ALIAS_RULE}",
            "Choose a name like 'polite' or 'sql-v2'",
        )


def exists(history: Sequence[Version] | Sequence[CompositionVersion]) -> bool:
    """Return whether the name stands for something now."""
    return bool(history) and history[-1].content is not None


def check_expected(
    what: str,
    history: Sequence[Version] | Sequence[CompositionVersion],
    expected: int | None,
) -> None:
    """Raise `VersionConflictError` if `what` is not at version `expected`; 0: it does not exist."""
    number = history[-1].number if exists(history) else 0
    if expected is None or expected == number:
        return
    present = f"at version {number}" if number else "not there"
    requirement = f"at version {expected}" if expected else "to be new"
    raise VersionConflictError(
        f"{what} is {present}, but was expected {requirement}. Read it again, and decide anew."
    )


def rollback_target(
    history: Sequence[_Version], to: int | None, not_found: type[ComposerError]
) -> _Version:
    """Return the version whose content comes back: number `to`, or the last with other content.

    Raises:
        ComposerError: `not_found`, if there is no such version.
        VersionConflictError: the version has no content, or the present one.
    """
    present = history[-1]
    name = quoted(present.name)
    if to is None:
        for version in reversed(history):
            if version.content not in (None, present.content):
                return version
        raise VersionConflictError(
            f"{name} never had another content to return to. Store another content instead."
        )
    if not 1 <= to <= len(history):
        raise not_found(f"{name} has no version {to}. It has the versions 1 to {len(history)}.")
    target = history[to - 1]
    if target.content is None:
        raise VersionConflictError(
            f"version {to} of {name} is its deletion. Delete it, or name a version with content."
        )
    if target.content == present.content:
        raise VersionConflictError(
            f"{name} has the content of version {to} now. Name a version with another content."
        )
    return target


def contents(history: Iterable[Version], last: int) -> frozenset[str]:
    """Return the digests of the `last` versions, without changes of policy and profile."""
    same = (Action.POLICY, Action.PROFILE)
    digests = [version.digest for version in history if version.action not in same]
    return frozenset(digest for digest in digests[-last:] if digest is not None)
