"""Adapters on their way into the engine: read, proved once, kept at hand.

A request waits here until its adapters are in memory; those that have theirs run on meanwhile.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping

from starlette.concurrency import run_in_threadpool

from adapters import AdapterError, Generation, ModelShapes, Store, inspect
from server import metrics
from server.engine.port import Engine
from server.server_paths import ServerPaths

Verify = Callable[[Generation], Awaitable[None]]
"""Compares an adapter in the engine with PEFT; raises `AdapterError`."""

_LEAST_SHIFT = 1e-6
"""Nats. An adapter that moves the logits of the probe by less than this changes nothing."""


class Loader:
    """What of the store is in the engine's memory, as far as the front end can know it.

    The engine drops the least recently used adapter on its own, so this is an estimate; where it is
    wrong, the engine reads the adapter in the middle of a step, which is slower and as correct.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        shapes: Mapping[str | None, ModelShapes | None],
        paths: ServerPaths,
        verify: Verify | None = None,
    ) -> None:
        """`shapes` of each model, where they are known; None is the base. `paths` are what clients
        must not see of the errors."""
        self.paths = paths
        self.inspected: set[str] = set()
        """Digests of adapters that were compared with the base model already."""

        self._engine = engine
        self._store = store
        self._shapes = shapes
        self._verify = verify
        # Engine names by model, the oldest first.
        self._resident: defaultdict[str | None, OrderedDict[str, None]] = defaultdict(OrderedDict)
        self._proved: set[str] = set()  # engine names
        self._loading: dict[str, asyncio.Task[None]] = {}

    async def ensure(self, generations: Iterable[Generation]) -> None:
        """Return when the adapters are loaded, and known to do something.

        Raises:
            AdapterError: one of them cannot be loaded, or changes nothing.
            AdapterStoreError: its files are not what was published.
        """
        loads = []
        for generation in generations:
            resident = self._resident[generation.model]
            if generation.engine_name in resident:
                resident.move_to_end(generation.engine_name)
            else:
                # Keep the task itself: `_loading` forgets it as soon as it ends, failed or not.
                loads.append(self._load_of(generation))
        # Others may wait for the same load, so a client that goes away must not end it; and every
        # load is waited for, because a failure of one must not leave another half done.
        outcomes = await asyncio.gather(*map(asyncio.shield, loads), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def retire(self, generation: Generation) -> None:
        """Take the adapter out of the engine's memory."""
        self._resident[generation.model].pop(generation.engine_name, None)
        self._proved.discard(generation.engine_name)
        await self._engine.retire(generation)

    def _load_of(self, generation: Generation) -> asyncio.Task[None]:
        """The load of this generation that runs already, or a new one."""
        name = generation.engine_name
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._load(generation))
            task.add_done_callback(lambda done: self._end(name, done))
        return task

    def _end(self, name: str, task: asyncio.Task[None]) -> None:
        self._loading.pop(name, None)
        if not task.cancelled():
            task.exception()  # its waiters may all be gone; asyncio would log it as never retrieved

    async def _load(self, generation: Generation) -> None:
        with metrics.adapter_load():
            await self._load_and_prove(generation)

    async def _load_and_prove(self, generation: Generation) -> None:
        name = generation.engine_name
        await run_in_threadpool(self._check_files, generation)
        await self._engine.load(generation)
        if name not in self._proved:
            try:
                await self._prove(generation)
            except BaseException:
                await self._engine.retire(generation)
                raise
            self._proved.add(name)
        resident = self._resident[generation.model]
        resident[name] = None
        while len(resident) > self._engine.capacities[generation.model].adapters_in_memory:
            resident.popitem(last=False)

    def _check_files(self, generation: Generation) -> None:
        """They are what was published; and it was published for a model of these shapes."""
        self._store.verify(generation.digest)
        if generation.digest not in self.inspected:
            inspect(generation.path, generation.alias, self._shapes.get(generation.model))
            self.inspected.add(generation.digest)

    async def _prove(self, generation: Generation) -> None:
        """Once per generation: it fits the engine's slots, and it changes what the base says."""
        await self._engine.try_slot(generation)
        shift = await self._engine.shift(generation)
        seen = (
            (await self._engine.probe(generation)).logprobs.values() if shift is None else (shift,)
        )
        if not all(map(math.isfinite, seen)):
            raise AdapterError(
                generation.alias,
                generation.path,
                "the engine's logits with it are not finite: its numbers are too large for the "
                "precision of this model",
                "Train it with a smaller step or scale",
            )
        if shift is not None and shift < _LEAST_SHIFT:
            raise AdapterError(
                generation.alias,
                generation.path,
                "the engine gives the same logits with it and without it, so none of its modules "
                "takes part",
                "Train it on modules that vLLM runs with LoRA, the linear projections",
            )
        if self._verify is not None:
            await self._verify(generation)
