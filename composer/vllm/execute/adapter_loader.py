"""Load adapters into the engine's memory in the background, and remove retired ones.

vLLM reads an adapter that is not in memory in the middle of the step that needs it, while all
requests of the batch wait for the disk. Here a thread reads it before, so that the step finds it.
And vLLM drops an adapter only when others push it out; here a retired adapter leaves with the last
request that uses it.

Everything but the reading itself runs in the engine's thread: worker calls and steps take turns, so
there are no locks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from vllm.lora.layers.utils import LoRAMapping
from vllm.lora.lora_model import LoRAModel
from vllm.lora.model_manager import LoRAModelManager
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.platforms import current_platform

from composer.vllm.adapter_checks import check_shapes, check_values
from composer.vllm.step_failures import agreed

Unready = tuple[int, str]
"""The id of an adapter that is not in memory, and why it never will be; "" while it is loading."""

LOAD_THREADS = 2
PATIENCE_S = 5.0
MAX_RETIRED = 1024
"""How many retired adapters are remembered that are out of memory."""


def still_loading(replies: Iterable[Iterable[Sequence[int | str]]]) -> set[int]:
    """Return the ids that `ComposerWorker.prefetch_adapters` reports, over all workers of a
    `collective_rpc`.

    Failures are values and not exceptions: where several workers share a model, vLLM 0.32 leaves
    the answers of the others in their queues when one raises, and every later call gets an answer
    to an earlier one (`MultiprocExecutor.collective_rpc`).

    Raises:
        ValueError: an adapter cannot be loaded. Names it, and the reason.
    """
    unready = [(int(id), str(problem)) for reply in replies for id, problem in reply]
    for _, problem in unready:
        if problem:
            raise ValueError(problem)
    return {id for id, _ in unready}


@dataclass(slots=True)
class _Load:
    request: LoRARequest
    future: Future[LoRAModel]
    wanted_s: float  # time.monotonic() of the last call that wanted it


class AdapterLoader:
    """Replaces the disk for vLLM's LoRA manager of one worker.

    Loads that vLLM has not taken yet are bounded: calls start none while there are as many as
    adapter slots, so at most `2 * max_loras - 1` adapters wait here beside the `max_cpu_loras` of
    vLLM. A finished load that no call wanted and no step took within `patience_s` is dropped: its
    request may have ended before it began.
    """

    def __init__(self, manager: LRUCacheWorkerLoRAManager, patience_s: float = PATIENCE_S) -> None:
        self._manager = manager
        self._models: LoRAModelManager = manager._adapter_manager
        self._patience_s = patience_s
        self._loads: dict[int, _Load] = {}  # least recently wanted first
        self._retired: dict[int, None] = {}  # in the order of their retirement
        # Calls that could not start, in the order of their first try, and the time of the last.
        self._queue: dict[tuple[int, ...], float] = {}
        self._failed: dict[int, str] = {}  # in the step in progress, and why
        self._read: Callable[[LoRARequest], LoRAModel] = manager._load_adapter
        self._apply: Callable[[set[LoRARequest]], None] = manager._apply_adapters
        manager._load_adapter = self._take
        manager.set_active_adapters = self._set_active
        self._pool = ThreadPoolExecutor(
            LOAD_THREADS,
            "adapter-loader",
            initializer=current_platform.set_device,  # pinned memory belongs to a device
            initargs=(manager.device,),
        )

    # ---- into memory

    def prefetch(self, wanted: Iterable[LoRARequest]) -> list[Unready]:
        """Start to load adapters, and return those that are not in memory yet.

        All loads of one call start together or not at all, so that two compositions never wait for
        each other, and calls that could not start do so in the order of their first try. A failure
        is reported once and forgotten.
        """
        unready, missing = [], []
        wanted = list(wanted)
        call = tuple(request.lora_int_id for request in wanted)
        for request in wanted:
            id = request.lora_int_id
            self._retired.pop(id, None)
            if id in self._models._registered_adapters:
                self._models._registered_adapters.touch(id)  # not the next to be pushed out
            elif (load := self._loads.pop(id, None)) is None:
                missing.append(request)
            elif (problem := _problem(load)) is None:
                load.wanted_s = time.monotonic()
                self._loads[id] = load
                if not load.future.done():
                    unready.append((id, ""))
            else:
                unready.append((id, problem))
        if missing and not (self._is_next(call) and self._may_start()):
            self._queue[call] = time.monotonic()  # keeps the place that it has
        else:
            self._queue.pop(call, None)
            for request in missing:
                future = self._pool.submit(self._load, request)
                self._loads[request.lora_int_id] = _Load(request, future, time.monotonic())
        return unready + [(request.lora_int_id, "") for request in missing]

    def _is_next(self, call: tuple[int, ...]) -> bool:
        """Return whether no call has waited longer, apart from those that gave up."""
        late_s = time.monotonic() - self._patience_s
        for other, tried_s in list(self._queue.items()):
            if other == call or tried_s > late_s:
                return other == call
            del self._queue[other]
        return True

    def _may_start(self) -> bool:
        """Return whether there are fewer loads than slots, after dropping abandoned ones."""
        late_s = time.monotonic() - self._patience_s
        for id, load in list(self._loads.items()):
            if len(self._loads) < self._models.lora_slots:
                break
            if load.future.done() and load.wanted_s <= late_s:
                del self._loads[id]
        return len(self._loads) < self._models.lora_slots

    def _load(self, request: LoRARequest) -> LoRAModel:
        """Read and check an adapter; runs in the pool and only reads vLLM's manager."""
        lora = self._read(request)
        check_shapes(self._models, lora)
        check_values(lora)
        for weights in lora.loras.values():
            # Until now they may be a mapped file, which would be read in the step after all.
            for name in ("lora_a", "lora_b"):
                factor = getattr(weights, name)
                if factor is not None and not factor.is_pinned():
                    setattr(weights, name, factor.clone())
        return lora

    # ---- in a step

    def _take(self, request: LoRARequest) -> LoRAModel:
        """Stand in for `_load_adapter`: vLLM needs the adapter now. Use the load that was started,
        or else the disk."""
        load = self._loads.pop(request.lora_int_id, None)
        if load is None or load.request != request or load.future.cancel():
            return self._load(request)  # also if it was still queued
        return load.future.result()

    def _set_active(self, requests: set[LoRARequest], mapping: LoRAMapping | None) -> None:
        """Stand in for `set_active_adapters`, which vLLM calls in every step with the adapters of
        the batch and of each of its rows."""
        self._apply_new(requests)
        if mapping is None:
            return
        # To vLLM two requests for adapters of one name are equal, so one of them is not in the set.
        for id in sorted(set(mapping.prompt_mapping) - {0, *self._models._active_adapters}):
            self._failed[int(id)] = f"adapter {id} has the name of another that runs"
            self._activate_empty(int(id))
        self._models.set_adapter_mapping(mapping)

    def _apply_new(self, requests: set[LoRARequest]) -> None:
        """Pass only adapters without a slot through vLLM's own loop.

        That loop copies the list of all adapters in memory for every adapter of every step. What
        the batch uses is touched before anything is loaded, so nothing pushes it out.

        Touch and load in the order of ids. The order of the set follows hashes of names, which
        differ between the workers of a tensor-parallel group: each would push out another adapter,
        and some would wait in `agreed` for the others forever.
        """
        models, new = self._models, []
        if len(requests) > models.lora_slots:
            self._apply(requests)  # raises
        for request in sorted(requests, key=lambda request: request.lora_int_id):
            id = request.lora_int_id
            if id in models._active_adapters and not request.load_inplace:
                models._active_adapters.touch(id)
                models._registered_adapters.touch(id)
            else:
                new.append(request)
        if not new:
            return
        problems = {}
        for request in new:
            if (problem := self._try(request)) is not None:
                problems[request.lora_int_id] = problem
        self._failed |= agreed(problems)
        for request in new:
            if request.lora_int_id in self._failed:
                self._activate_empty(request.lora_int_id)

    def _try(self, request: LoRARequest) -> str | None:
        """Put an adapter that the step needs into a slot. Return why it is not possible."""
        try:
            self._apply({request})
        except Exception as error:  # of any class: it comes from files and from layers of any model
            return f"adapter '{request.lora_name}' cannot be loaded: {error}"
        return None

    def _activate_empty(self, id: int) -> None:
        """Give an adapter that failed a slot without weights, so that the step can run.

        What its rows compute must not reach a client: see `take_failed`.
        """
        self._manager.remove_adapter(id)
        # Not by `add_adapter`, which wants factors.
        self._models._registered_adapters[id] = LoRAModel(id, 1, {})
        self._models.activate_adapter(id)

    def take_failed(self) -> dict[int, str]:
        """Return the adapters that failed in the step that has just run, and why, and remove them,
        so that the next request tries again. Call it after every step."""
        failed, self._failed = self._failed, {}
        for id in failed:
            self._manager.remove_adapter(id)
        return failed

    # ---- out of memory

    def retire(self, id: int) -> None:
        """Let `sweep` remove the adapter as soon as it is unused.

        A request may still use it: that loads the adapter again, and it leaves again, unless
        `MAX_RETIRED` others were retired since. Prefetching it ends its retirement.
        """
        self._retired.pop(id, None)
        self._retired[id] = None
        if (load := self._loads.pop(id, None)) is not None:
            load.future.cancel()
        for old in list(self._retired):
            if len(self._retired) <= MAX_RETIRED:
                break
            if old not in self._models._registered_adapters:
                del self._retired[old]

    def sweep(self, used: Callable[[], set[int]]) -> None:
        """Remove the retired adapters that are in memory and not in `used()`."""
        if not self._retired:
            return
        resident = [id for id in self._models._registered_adapters if id in self._retired]
        if resident:
            in_use = used()
            for id in resident:
                if id not in in_use:
                    self._manager.remove_adapter(id)

    def resident(self) -> list[int]:
        """Return the ids of all adapters in memory, with those that vLLM has not taken yet."""
        return sorted({*self._models._registered_adapters, *self._loads})


def _problem(load: _Load) -> str | None:
    """Return why a load failed; None if it did not."""
    if not load.future.done() or (error := load.future.exception()) is None:
        return None
    request = load.request
    return f"adapter '{request.lora_name}' ({request.lora_path}) cannot be loaded: {error}"
