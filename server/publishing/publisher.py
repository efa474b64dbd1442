"""Change adapters in the only safe order: store, load, verify, then point the alias at them.

The store is shared: this server follows what other servers publish there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from adapters import (
    EMPTY_PROFILE,
    AdapterError,
    AdapterNotFoundError,
    Generation,
    Lease,
    ModelShapes,
    NameTakenError,
    Policy,
    Profile,
    Registry,
    Store,
    StoredAdapter,
    Version,
    model_of,
)
from adapters.store.history import check_expected
from composer.errors import ComposerError, EngineFault, quoted
from server.engine.port import Engine
from server.engine.residency import Loader
from server.http.store_position import StorePosition
from server.publishing.store_threads import StoreThreads

logger = logging.getLogger(__name__)

Fetch = Callable[[Path], Mapping[str, object]]
"""Writes the two files of an adapter into a folder and returns their origin."""

_FOLLOW_S = 0.5
"""Interval at which a server looks for changes by other servers."""
_STALE_AFTER_S = 10.0
"""How long the store may be unreadable before the server reports that it is not ready."""


class AdapterService:
    """Publishes, replaces, rolls back and removes adapters while requests run."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        shapes: Mapping[str | None, ModelShapes | None],
        taken: Callable[[str], bool],
        loader: Loader,
        threads: StoreThreads,
    ) -> None:
        """`shapes` maps models to their shapes, None being the base; `taken` returns whether a name
        belongs to something other than an adapter. The caller of `publish` is admitted to
        `threads.publishing`."""
        self.store = store
        self.loader = loader
        self.registry = Registry(self._retire_later)
        self.failures: dict[str, str] = {}
        """Alias of the store that is not served here -> why."""

        self.position = StorePosition()
        """The position up to which the store is followed."""

        self._engine = engine
        self._threads = threads
        self._shapes = shapes
        self._taken = taken
        self._tasks: set[asyncio.Task[None]] = set()
        self._followed_s = time.monotonic()

    # ---- what operators do

    async def publish(
        self,
        alias: str,
        fetch: Fetch,
        *,
        expected: int | None,
        actor: str,
        policy: Policy | None = None,
        profile: Profile = EMPTY_PROFILE,
    ) -> Version:
        """Publish an adapter, or replace the one that the alias stands for.

        When it returns, new requests get the new version; requests in flight keep theirs.

        Raises:
            ComposerError: it failed, and the alias is unchanged.
        """
        self._check_name(alias)
        self._check_expected(alias, expected)
        async with self._stored(alias, fetch) as stored:
            return await self._switch(
                alias,
                stored,
                lambda: self.store.publish(
                    alias,
                    stored.digest,
                    expected=expected,
                    actor=actor,
                    origin=stored.origin,
                    policy=policy,
                    profile=profile,
                ),
            )

    async def rollback(
        self, alias: str, *, to: int | None, expected: int | None, actor: str
    ) -> Version:
        """Restore an earlier version: the previous content, or number `to`."""
        self._check_name(alias)
        if expected is None:
            present = self.store.history(alias)[-1]
            expected = present.number if present.digest is not None else 0
        target = self.store.rollback_target(alias, to)
        stored = await run_in_threadpool(self.store.stored, str(target.digest))
        return await self._switch(
            alias,
            stored,
            lambda: self.store.rollback(alias, to=target.number, expected=expected, actor=actor),
        )

    async def set_policy(
        self, alias: str, policy: Policy, *, expected: int | None, actor: str
    ) -> Version:
        """Set who may use the adapter, and how; requests in flight are not affected."""
        version = await self._threads.changes.admit(
            lambda: self.store.set_policy(alias, policy, expected=expected, actor=actor)
        )
        await self._apply(version, load=True)
        return version

    async def set_profile(
        self, alias: str, profile: Profile, *, expected: int | None, actor: str
    ) -> Version:
        """Set what the adapter is for; requests in flight are not affected."""
        version = await self._threads.changes.admit(
            lambda: self.store.set_profile(alias, profile, expected=expected, actor=actor)
        )
        await self._apply(version, load=True)
        return version

    async def delete(self, alias: str, *, expected: int | None, actor: str) -> Version:
        """Stop serving the alias. Its history remains, and `rollback` restores it."""
        version = await self._threads.changes.admit(
            lambda: self.store.delete(alias, expected=expected, actor=actor)
        )
        self.registry.drop(alias, version.number)
        return version

    # ---- what the store says

    @property
    def store_problem(self) -> str | None:
        """Return why aliases may be out of date; None while the store can be read."""
        behind_s = time.monotonic() - self._followed_s
        if behind_s < _STALE_AFTER_S:
            return None
        return f"the adapter store could not be read for {behind_s:.0f} s"

    async def start(self, required: Collection[str]) -> None:
        """Serve the adapters of the store: load as many as fit, the others on demand.

        Raises:
            EngineFault: a `required` alias cannot be served. Other failures are only logged.
        """
        current = [self.store.current(alias) for alias in self.store.aliases()]
        seen: Counter[str | None] = Counter()
        for version in current:
            model = model_of(version.alias)
            seen[model] += 1
            known = model in self._shapes
            limit = self._engine.capacities[model].adapters_in_memory if known else 0
            await self._apply(version, load=seen[model] <= limit)
        for alias in required:
            if (problem := self.failures.get(alias)) is not None:
                raise EngineFault(f"the adapter {quoted(alias)} cannot be served: {problem}")
        self._followed_s = time.monotonic()
        await self.position.advance(self.store.followed)
        self._keep(self._follow())

    async def _follow(self) -> None:
        while True:
            await self.position.pause(_FOLLOW_S)
            try:
                versions = await run_in_threadpool(self.store.refresh)
            except ComposerError as error:
                logger.error("The adapter store cannot be followed: %s", error)
                continue
            self._followed_s = time.monotonic()
            position = self.store.followed
            for version in _latest(versions):
                await self._apply(version, load=True)
            await self.position.advance(position)

    async def _apply(self, version: Version, *, load: bool) -> None:
        """Serve a version of the store. On failure the alias stays unchanged."""
        alias = version.alias
        if version.digest is None:
            self.registry.drop(alias, version.number)
            self.failures.pop(alias, None)
            return
        try:
            self._check_name(alias)
            stored = await run_in_threadpool(self.store.stored, version.digest)
            with self._prepare(alias, stored) as lease:
                generation = lease.generations[alias]
                served = self.registry.get(alias)
                # A new policy of the served generation takes effect without loading.
                if load and (served is None or served.generation != generation):
                    await self.loader.ensure([generation])
                self.registry.point(generation, version.policy, version.number, version.profile)
            self.failures.pop(alias, None)
        except ComposerError as error:
            self.failures[alias] = error.message
            logger.error(
                "Version %d of adapter %s is not served: %s", version.number, alias, error.message
            )

    # ---- steps

    @asynccontextmanager
    async def _stored(self, alias: str, fetch: Fetch) -> AsyncIterator[StoredAdapter]:
        """Commit the content and yield it; `prune` keeps it until the end of the block."""

        def commit(folder: Path) -> StoredAdapter:
            return self.store.commit(
                folder, alias, self._shapes.get(model_of(alias)), fetch(folder)
            )

        staging = ExitStack()
        folder = await self._threads.changes.admit(
            lambda: staging.enter_context(self.store.staging())
        )
        try:
            stored = await self._threads.publishing.run(lambda: commit(folder))
            self.loader.inspected.add(stored.digest)
            yield stored
        finally:
            await self._threads.changes.run(staging.close)

    async def _switch(
        self, alias: str, stored: StoredAdapter, record: Callable[[], Version]
    ) -> Version:
        with self._prepare(alias, stored) as lease:
            generation = lease.generations[alias]
            await self.loader.ensure([generation])
            version = await self._threads.changes.admit(record)
            self.registry.point(generation, version.policy, version.number, version.profile)
        self.failures.pop(alias, None)
        return version

    def _prepare(self, alias: str, stored: StoredAdapter) -> Lease:
        max_rank = self._engine.capacities[model_of(alias)].max_rank
        if stored.report.rank > max_rank:
            raise AdapterError(
                alias,
                None,
                f"its rank is {stored.report.rank}, and the server has room for {max_rank}",
                "Start the server with a larger --max-lora-rank, or cut the rank, as merges by svd "
                "and 'composer bake --rank' do",
            )
        return self.registry.prepare(alias, stored.digest, stored.path, stored.report.rank)

    def _check_name(self, alias: str) -> None:
        model = model_of(alias)
        if model not in self._shapes:
            raise AdapterError(
                alias,
                None,
                f"there is no auxiliary model '{model}' here",
                "Start the server with --auxiliary, or publish it for the base model",
            )
        if self._taken(alias):
            raise NameTakenError(
                f"{quoted(alias)} already names the base model, an auxiliary model, a stored "
                "composition or 'auto'. Choose another name.",
                param="alias",
            )

    def _check_expected(self, alias: str, expected: int | None) -> None:
        """Check the version early; the store checks it again when it records the change."""
        try:
            history = self.store.history(alias)
        except AdapterNotFoundError:
            history = ()
        check_expected(f"the adapter {quoted(alias)}", history, expected)

    # ---- the end of a generation

    def _retire_later(self, generation: Generation) -> None:
        self._keep(self._retire(generation))

    async def _retire(self, generation: Generation) -> None:
        if not self.registry.is_live(generation):  # it may be in use again
            await self.loader.retire(generation)

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        """Run a task beside the requests. The set keeps it from being garbage-collected."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("Work on adapters beside the requests ended", exc_info=error)


def _latest(versions: Iterable[Version]) -> Iterable[Version]:
    """Return the last version of every alias."""
    return {version.alias: version for version in versions}.values()
