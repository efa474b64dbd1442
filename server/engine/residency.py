"""Adapters on their way into the engine's memory: verified, loaded, and proved once.

A request waits here until its adapters are loaded; other requests keep running.
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
"""Smallest change of the probe's logits, in nats, by an adapter that has an effect."""


class Loader:
    """Loads adapters, and estimates which ones are in the engine's memory.

    The engine evicts the least recently used adapter by itself. If the estimate is wrong, the
    engine loads the adapter during a step, which is slower but equally correct.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        shapes: Mapping[str | None, ModelShapes | None],
        paths: ServerPaths,
        verify: Verify | None = None,
    ) -> None:
        """Create a loader without adapters.

        Args:
            engine: loads and probes adapters.
            store: has the files.
            shapes: of each model, if they are known; None is the base model.
            paths: folders that errors must not show to clients.
            verify: compares an adapter with PEFT.
        """
        self.paths = paths
        self.inspected: set[str] = set()
        """Digests of adapters that are known to fit the base model."""

        self._engine = engine
        self._store = store
        self._shapes = shapes
        self._verify = verify
        # Engine names by model, the oldest first.
        self._resident: defaultdict[str | None, OrderedDict[str, None]] = defaultdict(OrderedDict)
        self._proved: set[str] = set()  # engine names
        self._loading: dict[str, asyncio.Task[None]] = {}

    async def ensure(self, generations: Iterable[Generation]) -> None:
        """Return once the adapters are loaded and known to have an effect.

        Raises:
            AdapterError: one of them cannot be loaded, or changes nothing.
            AdapterStoreError: the files of an adapter were changed after it was published.
        """
        loads = []
        for generation in generations:
            resident = self._resident[generation.model]
            if generation.engine_name in resident:
                resident.move_to_end(generation.engine_name)
            else:
                # Keep the task itself, because `_loading` drops it as soon as it ends.
                loads.append(self._load_of(generation))
        # Other requests may wait for the same load, so a disconnected client must not cancel it.
        # Wait for every load, so that the failure of one leaves none unfinished.
        outcomes = await asyncio.gather(*map(asyncio.shield, loads), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def retire(self, generation: Generation) -> None:
        """Remove an adapter from the engine's memory."""
        self._resident[generation.model].pop(generation.engine_name, None)
        self._proved.discard(generation.engine_name)
        await self._engine.retire(generation)

    def _load_of(self, generation: Generation) -> asyncio.Task[None]:
        """Return the running load of this generation, or start one."""
        name = generation.engine_name
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._load(generation))
            task.add_done_callback(lambda done: self._end(name, done))
        return task

    def _end(self, name: str, task: asyncio.Task[None]) -> None:
        self._loading.pop(name, None)
        if not task.cancelled():
            task.exception()  # otherwise asyncio logs an error that no request waits for

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
        """Check that the files are unchanged, and that the adapter fits the model."""
        self._store.verify(generation.digest)
        if generation.digest not in self.inspected:
            inspect(generation.path, generation.alias, self._shapes.get(generation.model))
            self.inspected.add(generation.digest)

    async def _prove(self, generation: Generation) -> None:
        """Check once per generation that the adapter fits a slot and has an effect."""
        await self._engine.try_slot(generation)
        shift = await self._engine.shift(generation)
        values = (
            (await self._engine.probe(generation)).logprobs.values() if shift is None else (shift,)
        )
        if not all(map(math.isfinite, values)):
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
