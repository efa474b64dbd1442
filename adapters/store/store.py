"""The store of adapters and compositions: immutable contents, and names with their history.

    ROOT/objects/<digest>/   contents (`objects.py`)
    ROOT/staging/<random>/   unfinished ones (`staging.py`)
    ROOT/journal.jsonl       every change of every alias and composition (`journal.py`)
    ROOT/lock                held by writers

To publish: `staging`, write the files, `commit` (the content is in the store), `publish` (the alias
stands for it). A process killed between two steps leaves at most a content without an alias.
Several processes may share a store, also on a network file system with locks. POSIX only: Linux
and macOS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from adapters.disk import locked, make_folder, store_errors
from adapters.errors import (
    AdapterError,
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

    A change is on disk when its method returns. Any method may raise `AdapterStoreError`: the disk
    is full, files are damaged, or the folder is gone.
    """

    def __init__(self, root: Path, clock: Callable[[], datetime] = _now) -> None:
        """Open the store in the folder `root`, and create the folder if needed.

        A store without write permission can be read; changes then raise `StoreReadOnlyError`.
        `clock` supplies the times in the history, in UTC.
        """
        self._clock = clock
        self.root = root = root.resolve()
        self._lock = root / "lock"
        self.read_only = False
        """Whether this process can read the store but not change it."""

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
        """Create missing files and folders. Raises `StoreReadOnlyError`."""
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
        """Return the position up to which `refresh` has returned the changes of other processes.

        Own changes are known at once. `sequence` of a version is its position.
        """
        return self._journal.followed

    # ---- contents

    def staging(self) -> AbstractContextManager[Path]:
        """Return a context with a private folder on the file system of the store."""
        return self._staging.open()

    def commit(
        self,
        folder: Path,
        alias: str,
        base: ModelShapes | None,
        origin: Mapping[str, object],
    ) -> StoredAdapter:
        """Inspect the adapter in `folder`, from `staging`, and move its files into the store.

        `prune` keeps the content until the staging folder is removed; publish it before that. An
        existing content stays unchanged; a damaged one is repaired. The result has the `origin` of
        this call, `stored` returns that of the first commit.

        Raises:
            AdapterError: the adapter cannot be served; the store is unchanged.
        """
        check_plain_files(folder, alias)
        try:
            report = inspect(folder, alias, base)
        except AdapterError as error:  # whoever publishes knows nothing of `folder`
            raise AdapterError(alias, None, error.problem, error.remedy) from error
        with store_errors("store the adapter", writing=True):
            with locked(self._lock):
                self._staging.pin(folder, report.digest)
            scratch = self._staging.scratch(folder)
        self._objects.add(folder, scratch, report, origin)
        return replace(self._objects.load(report.digest), origin=origin)

    def stored(self, digest: str) -> StoredAdapter:
        """Return the content with this digest. Raises `AdapterNotFoundError`."""
        return self._objects.load(digest)

    def verify(self, digest: str) -> None:
        """Compare the content with its digest; cheap if it was not changed since the last time.

        Raises:
            AdapterNotFoundError: the content does not exist.
            AdapterStoreError: the files differ from those that were committed.
        """
        self._objects.verify(digest)

    def prune(self, keep: int) -> tuple[str, ...]:
        """Delete contents that no alias needs, and return their digests, sorted.

        Keeps the contents of the last `keep` versions of each alias, not counting changes of policy
        and profile, and contents that are about to be published. An engine may read an adapter
        again while a request uses a replaced version, so keep more than 1 under traffic.
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

        `expected` is the present version number, 0 if the alias must not exist, None for any.
        Without `policy` the alias keeps its policy, even across a deletion; a new alias gets
        `Policy()`. Fields of `profile` that are None keep their values likewise.

        Raises:
            AdapterError: the name cannot be an alias.
            AdapterNotFoundError: the content is not stored.
            NameTakenError: a stored composition has the name.
            VersionConflictError: the alias is not at version `expected`.
        """
        check_alias(alias)
        self._objects.verify(digest)  # may read all of it, so before taking the lock
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

        `to` is a version number, by default that of the previous content: a second rollback reverts
        the first, and a deleted alias comes back.

        Raises:
            AdapterNotFoundError: no such alias or version, or its content was pruned.
            NameTakenError: a stored composition has the name now.
            VersionConflictError: the alias is not at version `expected`, or there is nothing to
                return to.
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
        """Return the version that `rollback` would restore now. Raises as `rollback` does."""
        return rollback_target(self.history(alias), to, AdapterNotFoundError)

    def delete(self, alias: str, *, expected: int | None = None, actor: str) -> Version:
        """Let `alias` stand for nothing; its history and its contents remain.

        Raises:
            AdapterNotFoundError: no such alias.
            VersionConflictError: the alias is not at version `expected`.
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
            VersionConflictError: the alias is not at version `expected`.
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
            VersionConflictError: the alias is not at version `expected`.
        """
        with self._changing(alias, expected):
            present = self.current(alias)
            return self._append(
                alias, Action.PROFILE, present.digest, present.policy, profile, actor, {}
            )

    def current(self, alias: str) -> Version:
        """Return the present version of `alias`. Raises `AdapterNotFoundError`."""
        history = self._journal.history(alias)
        if not exists(history):
            raise self._unknown(alias)
        return history[-1]

    def all(self) -> tuple[Version, ...]:
        """Return the present version of every alias that is not deleted, sorted by alias."""
        histories = (self._journal.history(alias) for alias in sorted(self._journal.aliases()))
        return tuple(history[-1] for history in histories if exists(history))

    def aliases(self) -> tuple[str, ...]:
        """Return all aliases that are not deleted, sorted."""
        return tuple(version.alias for version in self.all())

    def history(self, alias: str) -> tuple[Version, ...]:
        """Return all versions of `alias`, oldest first, deletions included.

        Raises:
            AdapterNotFoundError: the alias never existed.
        """
        history = self._journal.history(alias)
        if not history:
            raise self._unknown(alias)
        return history

    def refresh(self) -> tuple[Version, ...]:
        """Read the changes of other processes, and return those of aliases in order.

        Costs one stat(2) if nothing changed. A returned change may be older than one of this
        process, so compare `number`, or ask `current`. Over NFS, changes are seen once the mount's
        attribute cache expires.
        """
        return tuple(entry for entry in self._journal.refresh() if isinstance(entry, Version))

    # ---- helpers

    @contextmanager
    def _changing(self, alias: str, expected: int | None) -> Iterator[tuple[Version, ...]]:
        """Exclude other writers; check the version of the alias and yield its history."""
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
        """Raise `NameTakenError` if a composition has the name. The caller holds the lock."""
        if alias in self.compositions:
            raise NameTakenError(
                f"{quoted(alias)} names a stored composition. Choose another name.", param="alias"
            )

    def _unknown(self, alias: str) -> AdapterNotFoundError:
        nearest = nearest_name(alias, self.aliases())
        advice = f"Did you mean {quoted(nearest)}?" if nearest else "Publish it first."
        return AdapterNotFoundError(f"no adapter is called {quoted(alias)}. {advice}")
