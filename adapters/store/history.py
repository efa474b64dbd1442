"""Questions to the history of an alias: its versions, oldest first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from adapters.errors import (
    AdapterError,
    AdapterNotFoundError,
    VersionConflictError,
)
from adapters.generation import ALIAS
from adapters.store.version import Action, Version
from composer.errors import quoted
from composer.fields import BASE


def check_alias(alias: str) -> None:
    """Raises `AdapterError` where `alias` cannot be one."""
    if alias == BASE:
        raise AdapterError(alias, None, "the name is that of the base model", "Choose another name")
    if not ALIAS.fullmatch(alias):
        raise AdapterError(
            alias,
            None,
            f"the name does not match {ALIAS.pattern}",
            "Choose a name like 'polite' or 'sql-v2'",
        )


def is_served(history: Sequence[Version]) -> bool:
    """Whether the alias stands for something."""
    return bool(history) and history[-1].digest is not None


def check_expected(alias: str, history: Sequence[Version], expected: int | None) -> None:
    """Raises `VersionConflictError` where the alias is not at `expected`; 0: it does not exist."""
    number = history[-1].number if is_served(history) else 0
    check_number(f"adapter {quoted(alias)}", number, expected)


def check_number(what: str, number: int, expected: int | None) -> None:
    """Raises `VersionConflictError` where `what` is not at `expected`; 0: it does not exist."""
    if expected is None or expected == number:
        return
    there = f"at version {number}" if number else "not there"
    wanted = f"at version {expected}" if expected else "to be new"
    raise VersionConflictError(
        f"{what} is {there}, but was expected {wanted}. Read it again, and decide anew."
    )


def rollback_target(history: Sequence[Version], to: int | None) -> Version:
    """The version whose content comes back: number `to`, or that before the present content.

    Raises:
        AdapterNotFoundError: there is no such version.
        VersionConflictError: it has no content, or the present one.
    """
    present = history[-1]
    alias = present.alias
    if to is None:
        for version in reversed(history):
            if version.digest not in (None, present.digest):
                return version
        raise VersionConflictError(
            f"'{alias}' never had another content to return to. Publish one instead."
        )
    if not 1 <= to <= len(history):
        raise AdapterNotFoundError(
            f"'{alias}' has no version {to}. It has the versions 1 to {len(history)}."
        )
    target = history[to - 1]
    if target.digest is None:
        raise VersionConflictError(
            f"version {to} of '{alias}' is its deletion. Delete the adapter, or name a version "
            "with content."
        )
    if target.digest == present.digest:
        raise VersionConflictError(
            f"'{alias}' has the content of version {to} now. Name one with another content."
        )
    return target


def contents(history: Iterable[Version], last: int) -> frozenset[str]:
    """What the `last` versions stand for, changes of policy and profile not counted."""
    same = (Action.POLICY, Action.PROFILE)
    digests = [version.digest for version in history if version.action not in same]
    return frozenset(digest for digest in digests[-last:] if digest is not None)
