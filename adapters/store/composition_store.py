"""Stored compositions: names with an owner and a history, in the journal of an adapter store.

The caller checks a composition before storing it; this module does not read it. In all servers that
share a store, a name stands for either a composition or an adapter; the lock of the journal
guarantees it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pydantic import JsonValue

from adapters.errors import (
    CompositionLimitError,
    CompositionNotFoundError,
    CompositionOwnerError,
    NameTakenError,
)
from adapters.store.composition_version import MAX_COMPOSITION_BYTES, NAME, CompositionVersion
from adapters.store.history import check_expected, exists, rollback_target
from adapters.store.journal import Journal
from adapters.store.version import Action
from composer.errors import CompositionSchemaError, quoted


class Compositions:
    """The compositions of a store. Safe to use from several threads.

    A change is on disk when its method returns. `actor` is recorded as the author of the change;
    `key` is the name of the key that requests it, None for a key that may change everything.
    """

    def __init__(self, journal: Journal, now: Callable[[], str]) -> None:
        self._journal = journal
        self._now = now

    # ---- reading

    def find(self, name: str) -> CompositionVersion | None:
        """Return the present version; None if the name stands for no composition."""
        history = self._journal.composition_history(name)
        return history[-1] if exists(history) else None

    def get(self, name: str) -> CompositionVersion:
        """Return the present version. Raises `CompositionNotFoundError`."""
        if (version := self.find(name)) is None:
            raise self._unknown(name)
        return version

    def all(self) -> tuple[CompositionVersion, ...]:
        """Return the present version of every composition, sorted by name."""
        versions = map(self.find, sorted(self._journal.compositions()))
        return tuple(version for version in versions if version is not None)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) is not None

    def history(self, name: str) -> tuple[CompositionVersion, ...]:
        """Return all versions, oldest first, with deletions. Raises `CompositionNotFoundError`."""
        history = self._journal.composition_history(name)
        if not history:
            raise self._unknown(name)
        return history

    # ---- changing

    def put(
        self,
        name: str,
        content: JsonValue,
        *,
        key: str | None,
        owner: str,
        actor: str,
        expected: int | None = None,
        limit: int | None = None,
    ) -> CompositionVersion:
        """Store a composition, or replace one.

        Args:
            name: the name.
            content: the composition, as JSON; not None.
            key: the key that requests the change.
            owner: the owner of a new composition; an existing one keeps its owner.
            actor: the author of the change.
            expected: the present version number, 0 if the name must be free; None for any.
            limit: the largest number of compositions of an owner.

        Raises:
            CompositionSchemaError: the name is not valid, or the composition is too large.
            NameTakenError: an adapter has the name.
            CompositionOwnerError: the composition belongs to another key.
            CompositionLimitError: the owner has reached `limit`.
            VersionConflictError: the composition is not at version `expected`.
        """
        check_name(name)
        size = len(json.dumps(content, allow_nan=False))
        if size > MAX_COMPOSITION_BYTES:
            raise CompositionSchemaError(
                f"the composition has {size} bytes as JSON; the limit is {MAX_COMPOSITION_BYTES}. "
                "Shorten its prompts, or send it with every request."
            )
        with self._putting(name, key, owner, expected, limit) as owner:
            return self._append(name, Action.PUBLISH, content, owner, actor)

    def check_put(
        self, name: str, *, key: str | None, owner: str, expected: int | None, limit: int | None
    ) -> None:
        """Raise the error that `put` would raise now for a composition of any content."""
        check_name(name)
        with self._putting(name, key, owner, expected, limit):
            pass

    def rollback(
        self,
        name: str,
        *,
        key: str | None,
        actor: str,
        to: int | None = None,
        expected: int | None = None,
        limit: int | None = None,
    ) -> CompositionVersion:
        """Restore an earlier version: number `to`, or the last one with other content.

        Raises:
            CompositionNotFoundError: no such composition or version.
            CompositionOwnerError: the composition or the version belongs to another key.
            CompositionLimitError: the owner has reached `limit`.
            NameTakenError: an adapter has the name now.
            VersionConflictError: the composition is not at version `expected`, or there is nothing
                to return to.
        """
        with self._changing(name, key, expected) as history:
            if not history:
                raise self._unknown(name)
            self._check_free(name)
            target = rollback_target(history, to, CompositionNotFoundError)
            self._check_owner(target, key)
            if (
                not exists(history)
                and limit is not None
                and (count := self._count(target.owner)) >= limit
            ):
                raise CompositionLimitError(
                    f"the key {quoted(target.owner)} has {count} stored compositions, and may have "
                    f"{limit}. Delete one that is not needed."
                )
            origin = {"rollback_to": target.number}
            return self._append(name, Action.ROLLBACK, target.content, target.owner, actor, origin)

    def delete(
        self, name: str, *, key: str | None, actor: str, expected: int | None = None
    ) -> CompositionVersion:
        """Let the name stand for nothing; its history remains.

        Raises:
            CompositionNotFoundError: no such composition.
            CompositionOwnerError: the composition belongs to another key.
            VersionConflictError: the composition is not at version `expected`.
        """
        with self._changing(name, key, expected) as history:
            if not exists(history):
                raise self._unknown(name)
            return self._append(name, Action.DELETE, None, history[-1].owner, actor)

    # ---- helpers

    @contextmanager
    def _putting(
        self, name: str, key: str | None, owner: str, expected: int | None, limit: int | None
    ) -> Iterator[str]:
        """Exclude other writers, check that a composition may be stored, and yield its owner."""
        with self._changing(name, key, expected) as history:
            self._check_free(name)
            if exists(history):
                owner = history[-1].owner
            elif limit is not None and (count := self._count(owner)) >= limit:
                raise CompositionLimitError(
                    f"the key {quoted(owner)} has {count} stored compositions, and may have "
                    f"{limit}. Delete one that is not needed, or start the server with a larger "
                    "--max-compositions-per-key."
                )
            yield owner

    @contextmanager
    def _changing(
        self, name: str, key: str | None, expected: int | None
    ) -> Iterator[tuple[CompositionVersion, ...]]:
        """Exclude other writers; check owner and version, and yield the history."""
        with self._journal.writing():
            history = self._journal.composition_history(name)
            if exists(history):
                self._check_owner(history[-1], key)
            check_expected(f"the composition {quoted(name)}", history, expected)
            yield history

    def _check_free(self, name: str) -> None:
        if exists(self._journal.history(name)):
            raise NameTakenError(
                f"{quoted(name)} names an adapter. Choose another name.", param="name"
            )

    def _check_owner(self, version: CompositionVersion, key: str | None) -> None:
        if key is not None and version.owner != key:
            raise CompositionOwnerError(
                f"version {version.number} of the composition {quoted(version.name)} belongs to "
                "another key. Choose another name, or ask an administrator."
            )

    def _count(self, owner: str) -> int:
        return sum(version.owner == owner for version in self.all())

    def _append(
        self,
        name: str,
        action: Action,
        content: JsonValue,
        owner: str,
        actor: str,
        origin: Mapping[str, object] | None = None,
    ) -> CompositionVersion:
        return self._journal.append(
            CompositionVersion(0, name, 0, action, content, owner, self._now(), actor, origin or {})
        )

    def _unknown(self, name: str) -> CompositionNotFoundError:
        return CompositionNotFoundError(
            f"no composition is called {quoted(name)}. GET /v1/compositions lists them.",
            param="name",
        )


def check_name(name: str) -> None:
    """Raise `CompositionSchemaError` if `name` is not a valid name of a composition."""
    if not NAME.fullmatch(name):
        raise CompositionSchemaError(
            f"{quoted(name)} cannot name a composition. Use 1 to 64 letters, digits and _ . - "
            "that start with a letter or _.",
            param="name",
        )
