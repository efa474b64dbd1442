"""The adapters that a server may serve, and its stored compositions: immutable contents, and names
with their history.

    ROOT/objects/<digest>/   contents (`objects.py`)
    ROOT/staging/<random>/   unfinished ones (`staging.py`)
    ROOT/journal.jsonl       every change of every alias and composition (`journal.py`)
    ROOT/lock                held by writers

Publishing is: `staging`, write the files, `commit` (the content is in the store), `publish` (the
alias stands for it). A process killed between two steps leaves at most an object without an alias.
Several processes may share a store, also over a mounted folder with locks. POSIX only: Linux and
macOS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from adapters.disk import locked, make_folder, store_errors
from adapters.errors import (
    AdapterNotFoundError,
    AdapterStoreError,
    NameTakenError,
    StoreReadOnlyError,
)
from adapters.inspection.inspect import inspect
from adapters.inspection.model_shapes import ModelShapes
from adapters.store.composition_store import Compositions
from adapters.store.history import (
    check_alias,
    check_expected,
    contents,
    exists,
    rollback_target,
)
from adapters.store.journal import Journal
from adapters.store.objects import Objects, StoredAdapter, check_plain_files
from adapters.store.policy import Policy
from adapters.store.profile import EMPTY_PROFILE, Profile
from adapters.store.staging import Staging
from adapters.store.version import Action, Version
from composer.errors import nearest_name, quoted


def _now() -> datetime:
    return datetime.now(UTC)


class Store:
    """One process's view of a store. Safe to use from several threads.

    What a method wrote is on disk when it returns. Any method may raise `AdapterStoreError`: the
    disk is full, files are damaged, or the folder is gone.
    """

    def __init__(self, root: Path, clock: Callable[[], datetime] = _now) -> None:
        """Open the store in the folder `root`, which is made if need be.

        One that cannot be written from here can be served from: changes then raise
        `StoreReadOnlyError`.

        `clock` gives the times in the history, in UTC.
        """
        self._clock = clock
        self.root = root = root.resolve()
        self._lock = root / "lock"
        self.read_only = False
        """Whether it can be served from, and nothing can be changed from here."""

        journal = root / "journal.jsonl"
        try:
            self._make(journal)
        except StoreReadOnlyError:
            if not (journal.is_file() and (root / "objects").is_dir()):
                raise
            self.read_only = True
        self._objects = Objects(root / "objects")
        self._staging = Staging(root / "staging", self._lock)
        self._journal = Journal(journal, self._lock)
        self.compositions = Compositions(self._journal, self._time)
        """The stored compositions."""

        if not self.read_only:
            self._staging.sweep()

    def _make(self, journal: Path) -> None:
        """Make what is missing. Raises `StoreReadOnlyError` where nothing can be written."""
        with store_errors(f"open {self.root}", writing=True):
            make_folder(self.root)
            with locked(self._lock):
                make_folder(self.root / "objects")
                make_folder(self.root / "staging")
                if not journal.exists():
                    if any((self.root / "objects").iterdir()):
                        raise AdapterStoreError(
                            f"{journal} is missing, though there are adapters beside it. Restore "
                            "it from a copy, or make an empty file to begin with no aliases."
                        )
                    Journal.create(journal)

    @property
    def followed(self) -> int:
        """The position in the journal up to which `refresh` has returned all foreign changes; our
        own are known as soon as they are made. `sequence` of a version is its position."""
        return self._journal.followed

    # ---- contents

    def staging(self) -> AbstractContextManager[Path]:
        """A new private folder on the file system of the store, removed at the end."""
        return self._staging.open()

    def commit(
        self,
        folder: Path,
        alias: str,
        base: ModelShapes | None,
        origin: Mapping[str, object],
    ) -> StoredAdapter:
        """Inspect the adapter in `folder`, from `staging`, and move its files into the store.

        The content is safe from `prune` until the staging folder ends; publish it before that. A
        content that is stored already stays as it is; a damaged one is mended. The result tells
        the origin given here, `stored` that of the first commit.

        Raises:
            AdapterError: the adapter cannot be served; the store is as it was.
        """
        check_plain_files(folder, alias)
        report = inspect(folder, alias, base)
        with store_errors("store the adapter", writing=True):
            with locked(self._lock):
                self._staging.pin(folder, report.digest)
            scratch = self._staging.scratch(folder)
        self._objects.add(folder, scratch, report, origin)
        return replace(self._objects.load(report.digest), origin=origin)

    def stored(self, digest: str) -> StoredAdapter:
        """The content with this digest. Raises `AdapterNotFoundError`."""
        return self._objects.load(digest)

    def verify(self, digest: str) -> None:
        """Compare the content with its digest; cheap where it did not change since the last time.

        Raises:
            AdapterNotFoundError: there is no such content.
            AdapterStoreError: the files are not what was committed.
        """
        self._objects.verify(digest)

    def prune(self, keep: int) -> tuple[str, ...]:
        """Delete contents that no alias needs, and return their digests, sorted.

        Kept are what the last `keep` versions of each alias stand for, changes of policy and
        profile not counted, and what somebody is about to publish. An engine may have to read an
        adapter again while a request still uses a replaced version, so keep more than 1 under
        traffic.
        """
        if keep < 1:
            raise ValueError(f"keep is {keep}; keep at least 1 version, the present one")
        self._staging.sweep()
        with (
            self.staging() as folder,
            store_errors("delete old adapters", writing=True),
            self._journal.writing(),
        ):
            used = set(self._staging.pinned())
            for alias in self._journal.aliases():
                used |= contents(self._journal.history(alias), keep)
            unused = sorted(self._objects.names() - used)
            self._objects.remove(unused, folder)
        return tuple(unused)

    # ---- aliases

    def publish(
        self,
        alias: str,
        digest: str,
        *,
        expected: int | None = None,
        actor: str,
        origin: Mapping[str, object],
        policy: Policy | None = None,
        profile: Profile = EMPTY_PROFILE,
    ) -> Version:
        """Let `alias` stand for a committed content.

        `expected` is the number that the alias must have now, 0 where it must not exist. Without
        `policy` the alias keeps its own, also over a deletion; a new alias has `Policy()`. What
        `profile` does not say, it keeps likewise.

        Raises:
            AdapterError: the name cannot be an alias.
            AdapterNotFoundError: no such content is stored.
            NameTakenError: a stored composition has the name.
            VersionConflictError: the alias is not at `expected`.
        """
        check_alias(alias)
        self._objects.verify(digest)  # may read all of it, so not while others wait for the lock
        with self._changing(alias, expected) as history:
            self._objects.verify(digest)
            self._check_free(alias)
            if policy is None:
                policy = history[-1].policy if history else Policy()
            profile = profile.merged_over(history[-1].profile if history else EMPTY_PROFILE)
            return self._append(alias, Action.PUBLISH, digest, policy, profile, actor, origin)

    def rollback(
        self, alias: str, *, to: int | None = None, expected: int | None = None, actor: str
    ) -> Version:
        """Let `alias` stand for an earlier content again, under its present policy.

        `to` is a version number. By default it is the content that was current before the present
        one; so a second rollback takes the first one back, and a deleted alias comes back.

        Raises:
            AdapterNotFoundError: no such alias or version, or its content was pruned.
            NameTakenError: a stored composition has the name now.
            VersionConflictError: the alias is not at `expected`, or there is nothing to return to.
        """
        with self._changing(alias, expected):
            self._check_free(alias)
            target = self.rollback_target(alias, to)
            assert target.digest is not None, "a target has content"
            self._objects.verify(target.digest)
            last = self.history(alias)[-1]
            return self._append(
                alias,
                Action.ROLLBACK,
                target.digest,
                last.policy,
                last.profile,
                actor,
                {"rollback_to": target.number},
            )

    def rollback_target(self, alias: str, to: int | None = None) -> Version:
        """The version that `rollback` would return to now. Raises what it would raise."""
        return rollback_target(self.history(alias), to, AdapterNotFoundError)

    def delete(self, alias: str, *, expected: int | None = None, actor: str) -> Version:
        """Let `alias` stand for nothing; its history and its contents stay.

        Raises:
            AdapterNotFoundError: no such alias.
            VersionConflictError: the alias is not at `expected`.
        """
        with self._changing(alias, expected):
            present = self.current(alias)
            return self._append(
                alias, Action.DELETE, None, present.policy, present.profile, actor, {}
            )

    def set_policy(
        self, alias: str, policy: Policy, *, expected: int | None = None, actor: str
    ) -> Version:
        """Replace the policy of `alias`.

        Raises:
            AdapterNotFoundError: no such alias.
            VersionConflictError: the alias is not at `expected`.
        """
        with self._changing(alias, expected):
            present = self.current(alias)
            return self._append(
                alias, Action.POLICY, present.digest, policy, present.profile, actor, {}
            )

    def set_profile(
        self, alias: str, profile: Profile, *, expected: int | None = None, actor: str
    ) -> Version:
        """Replace the profile of `alias`.

        Raises:
            AdapterNotFoundError: no such alias.
            VersionConflictError: the alias is not at `expected`.
        """
        with self._changing(alias, expected):
            present = self.current(alias)
            return self._append(
                alias, Action.PROFILE, present.digest, present.policy, profile, actor, {}
            )

    def current(self, alias: str) -> Version:
        """The present version of `alias`. Raises `AdapterNotFoundError`."""
        history = self._journal.history(alias)
        if not exists(history):
            raise self._unknown(alias)
        return history[-1]

    def all(self) -> tuple[Version, ...]:
        """The present version of every alias that stands for something, sorted by alias."""
        histories = (self._journal.history(alias) for alias in sorted(self._journal.aliases()))
        return tuple(history[-1] for history in histories if exists(history))

    def aliases(self) -> tuple[str, ...]:
        """All aliases that stand for something, sorted."""
        return tuple(version.alias for version in self.all())

    def history(self, alias: str) -> tuple[Version, ...]:
        """All versions of `alias`, oldest first, deletions included.

        Raises `AdapterNotFoundError` where there never was one.
        """
        history = self._journal.history(alias)
        if not history:
            raise self._unknown(alias)
        return history

    def refresh(self) -> tuple[Version, ...]:
        """Read what other processes changed, and return it, in order. Cheap: one stat(2).

        The changes of aliases, that is; compositions are simply there. Own changes are not in it. A
        foreign change may come after a later one of our own that has overtaken it, so compare
        `number`, or ask `current`. Over NFS, changes are seen after the time for which the mount
        caches attributes.
        """
        return tuple(entry for entry in self._journal.refresh() if isinstance(entry, Version))

    # ---- parts

    @contextmanager
    def _changing(self, alias: str, expected: int | None) -> Iterator[tuple[Version, ...]]:
        """Exclude other writers; gives the history of the alias, which is at `expected`."""
        with self._journal.writing():
            history = self._journal.history(alias)
            check_expected(f"the adapter {quoted(alias)}", history, expected)
            yield history

    def _append(
        self,
        alias: str,
        action: Action,
        digest: str | None,
        policy: Policy,
        profile: Profile,
        actor: str,
        origin: Mapping[str, object],
    ) -> Version:
        return self._journal.append(
            Version(0, alias, 0, action, digest, policy, self._time(), actor, origin, profile)
        )

    def _time(self) -> str:
        return self._clock().isoformat(timespec="milliseconds")

    def _check_free(self, alias: str) -> None:
        """Caller excludes other writers."""
        if alias in self.compositions:
            raise NameTakenError(
                f"{quoted(alias)} names a stored composition. Choose another name.", param="alias"
            )

    def _unknown(self, alias: str) -> AdapterNotFoundError:
        nearest = nearest_name(alias, self.aliases())
        advice = f"Did you mean {quoted(nearest)}?" if nearest else "Publish it first."
        return AdapterNotFoundError(f"no adapter is called {quoted(alias)}. {advice}")
