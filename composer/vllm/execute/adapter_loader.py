"""Adapters on their way into the engine's memory, and out of it.

vLLM reads an adapter that is not in memory in the middle of the step that needs it, while all
requests of the batch wait for the disk. Here a thread reads it before; the step then finds it. And
vLLM forgets an adapter only when others push it out; here one that was retired leaves with the last
request that uses it.

Everything but the reading itself runs in the engine's thread: worker calls and steps take turns, so
there are no locks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from vllm.lora.layers.utils import LoRAMapping
from vllm.lora.lora_model import LoRAModel
from vllm.lora.model_manager import LoRAModelManager
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.layers.linear import LinearBase, QKVParallelLinear
from vllm.platforms import current_platform

from composer.vllm.step_failures import agreed

Unready = tuple[int, str]
"""The id of an adapter that is not in memory, and why it never will be; "" while it is loading."""

THREADS = 2
PATIENCE_S = 5.0
REMEMBERED = 1024
"""Retired adapters that are out of memory and not forgotten yet."""


def still_loading(replies: Iterable[Iterable[Sequence[int | str]]]) -> set[int]:
    """What `ComposerWorker.prefetch_adapters` says, over all workers of a `collective_rpc`.

    Failures come as values and not as exceptions: where several workers share a model, vLLM 0.32
    leaves the answers of the others in their queues when one raises, and every later call gets an
    answer that is not its own (`MultiprocExecutor.collective_rpc`).

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
    asked: float  # time.monotonic() of the last call that wanted it


class AdapterLoader:
    """Takes the place of the disk for vLLM's LoRA manager of one worker.

    Loads that vLLM has not taken yet are bounded: calls start none while there are as many as
    adapter slots, so at most `2 * max_loras - 1` adapters wait here beside the `max_cpu_loras` of
    vLLM. A finished one that nobody has asked for or taken in `patience_s` makes room: its request
    may have ended before it began.
    """

    def __init__(self, manager: LRUCacheWorkerLoRAManager, patience_s: float = PATIENCE_S) -> None:
        self._manager = manager
        self._models: LoRAModelManager = manager._adapter_manager
        self._patience_s = patience_s
        self._loads: dict[int, _Load] = {}  # least recently asked for first
        self._retired: dict[int, None] = {}  # in the order of their retirement
        # Calls that found no room, the first first, and when they last asked.
        self._line: dict[tuple[int, ...], float] = {}
        self._failed: dict[int, str] = {}  # of the step in progress, and why
        self._read: Callable[[LoRARequest], LoRAModel] = manager._load_adapter
        self._apply: Callable[[set[LoRARequest]], None] = manager._apply_adapters
        manager._load_adapter = self._take
        manager.set_active_adapters = self._set_active
        self._pool = ThreadPoolExecutor(
            THREADS,
            "adapter-loader",
            initializer=current_platform.set_device,  # pinned memory belongs to a device
            initargs=(manager.device,),
        )

    # ---- into memory

    def prefetch(self, wanted: Iterable[LoRARequest]) -> list[Unready]:
        """Start loading, or see how far it is; those in memory are not in the answer.

        All of one call start together or not at all, so that two compositions never wait for each
        other's room, and calls that found no room start in the order in which they first asked. A
        failure is told once and forgotten.
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
                load.asked = time.monotonic()
                self._loads[id] = load
                if not load.future.done():
                    unready.append((id, ""))
            else:
                unready.append((id, problem))
        if not missing:
            self._line.pop(call, None)
        elif not (self._is_next(call) and self._has_room()):
            self._line[call] = time.monotonic()  # keeps the place that it has
        else:
            self._line.pop(call, None)
            for request in missing:
                future = self._pool.submit(self._load, request)
                self._loads[request.lora_int_id] = _Load(request, future, time.monotonic())
        return unready + [(request.lora_int_id, "") for request in missing]

    def _is_next(self, call: tuple[int, ...]) -> bool:
        """Whether no other call has waited longer for room, or those that did were given up."""
        late = time.monotonic() - self._patience_s
        for other, asked in list(self._line.items()):
            if other == call or asked > late:
                return other == call
            del self._line[other]
        return True

    def _has_room(self) -> bool:
        late = time.monotonic() - self._patience_s
        for id, load in list(self._loads.items()):
            if len(self._loads) < self._models.lora_slots:
                break
            if load.future.done() and load.asked <= late:
                del self._loads[id]
        return len(self._loads) < self._models.lora_slots

    def _load(self, request: LoRARequest) -> LoRAModel:
        """In a thread of the pool. Reads vLLM's manager, and changes nothing but its own result."""
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

    def _take(self, request: LoRARequest) -> LoRAModel:
        """vLLM needs the adapter now: the load that was started, or else the disk."""
        load = self._loads.pop(request.lora_int_id, None)
        if load is None or load.request != request or load.future.cancel():
            return self._load(request)  # also if it was still in line behind others
        return load.future.result()

    def _set_active(self, requests: set[LoRARequest], mapping: LoRAMapping | None) -> None:
        """vLLM's question in every step: the adapters of the batch, and of each of its rows."""
        self._apply_new(requests)
        if mapping is None:
            return
        # To vLLM two requests for adapters of one name are equal, so one of them is not in the set.
        for id in sorted(set(mapping.prompt_mapping) - {0, *self._models._active_adapters}):
            self._failed[int(id)] = f"adapter {id} has the name of another that runs"
            self._stand_in(int(id))
        self._models.set_adapter_mapping(mapping)

    def _apply_new(self, requests: set[LoRARequest]) -> None:
        """Only what is not in a slot goes through vLLM's own loop.

        That loop copies the list of all adapters in memory for every adapter of every step. What
        the batch uses is touched before anything is loaded, so nothing pushes it out.

        Touch and load in the order of ids. The order of the set follows hashes of names, which
        differ between the workers of a tensor-parallel group: each would push out another adapter,
        and some would wait in `agreed` for the others for good.
        """
        models, new = self._models, []
        if len(requests) > models.lora_slots:
            self._apply(requests)  # raises
        for request in sorted(requests, key=lambda one: one.lora_int_id):
            id = request.lora_int_id
            if id in models._active_adapters and not request.load_inplace:
                models._active_adapters.touch(id)
                models._registered_adapters.touch(id)
            else:
                new.append(request)
        if not new:
            return
        found = {}
        for request in new:
            if (problem := self._try(request)) is not None:
                found[request.lora_int_id] = problem
        self._failed |= agreed(found)
        for request in new:
            if request.lora_int_id in self._failed:
                self._stand_in(request.lora_int_id)

    def _try(self, request: LoRARequest) -> str | None:
        """Put an adapter that the step needs into a slot. Returns why it cannot be."""
        try:
            self._apply({request})
        except Exception as error:  # of any class: it comes from files and from layers of any model
            return f"adapter '{request.lora_name}' cannot be loaded: {error}"
        return None

    def _stand_in(self, id: int) -> None:
        """Give a slot without weights to an adapter that failed, so that the step can run.

        What its rows compute must go nowhere: see `take_failed`.
        """
        self._manager.remove_adapter(id)
        # Not by `add_adapter`, which wants factors.
        self._models._registered_adapters[id] = LoRAModel(id, 1, {})
        self._models.activate_adapter(id)

    def take_failed(self) -> dict[int, str]:
        """The adapters that failed in the step that has just run, and why; they leave memory, so
        that the next request tries again. To be called after every step."""
        failed, self._failed = self._failed, {}
        for id in failed:
            self._manager.remove_adapter(id)
        return failed

    # ---- out of memory

    def retire(self, id: int) -> None:
        """The adapter leaves as soon as `sweep` finds it unused.

        A request may still come with it: it loads the adapter once more, and the adapter leaves
        once more, unless `REMEMBERED` others were retired since. Prefetching it ends retirement.
        """
        self._retired.pop(id, None)
        self._retired[id] = None
        if (load := self._loads.pop(id, None)) is not None:
            load.future.cancel()
        for old in list(self._retired):
            if len(self._retired) <= REMEMBERED:
                break
            if old not in self._models._registered_adapters:
                del self._retired[old]

    def sweep(self, used: Callable[[], set[int]]) -> None:
        """Drop the retired adapters that are in memory and not in `used()`."""
        if not self._retired:
            return
        here = [id for id in self._models._registered_adapters if id in self._retired]
        if here:
            busy = used()
            for id in here:
                if id not in busy:
                    self._manager.remove_adapter(id)

    def resident(self) -> list[int]:
        """Ids of all adapters in memory, those included that vLLM has not taken yet."""
        return sorted({*self._models._registered_adapters, *self._loads})


def check_shapes(models: LoRAModelManager, lora: LoRAModel) -> None:
    """vLLM finds factors of another shape as it copies them into a slot: too large ones end the
    engine, smaller ones are taken as they are.

    Raises:
        ValueError: names the module, its shapes and those of the model.
    """
    for name, layer in models.modules.items():
        base = getattr(layer, "base_layer", None)
        if not isinstance(base, LinearBase):
            continue
        parts = models.packed_modules.get(name, [name])
        for part, size in zip(parts, _output_sizes(base, len(parts)), strict=False):
            if (weights := lora.get_lora(part)) is None:
                continue
            if weights.lora_a is None or weights.lora_b is None:
                raise ValueError(f"{part} has one factor only; save the adapter again")
            a, b, most = (
                weights.lora_a.shape,
                weights.lora_b.shape,
                models.lora_config.max_lora_rank,
            )
            if a[1:] != (base.input_size,) or b != (size, a[0]) or a[0] > most:
                raise ValueError(
                    f"the factors of {part} are A {list(a)} and B {list(b)}; the model needs "
                    f"[r, {base.input_size}] and [{size}, r] with r of at most {most}"
                )


LARGEST = 65504.0
"""Largest magnitude of a factor, of the scaled B and of their product, as `adapters` has it for
what is published: the largest float16."""


def check_values(lora: LoRAModel) -> None:
    """Refuse factors with which no engine computes. NaN in the KV cache outlives its request: the
    kernels read the rest of a block that the next request only begins to fill.

    Raises:
        ValueError: names the module and its largest number.
    """
    for name, weights in lora.loras.items():
        a, b = _largest(weights.lora_a), _largest(weights.lora_b)
        scale = abs(weights.scaling)
        for what, value in (
            ("A", a),
            ("scale", scale),
            ("scale * B", scale * b),
            ("scale * B @ A", scale * b * a),
        ):
            if not value <= LARGEST:
                raise ValueError(f"{what} of {name} reaches {value:.3g}, more than {LARGEST:g}")


def _largest(factor: torch.Tensor | Sequence[torch.Tensor | None] | None) -> float:
    """The largest magnitude in a factor, or in those of all experts; NaN where one is."""
    parts = (
        [factor] if isinstance(factor, torch.Tensor) else [p for p in factor or () if p is not None]
    )
    return max((float(part.abs().max()) for part in parts if part.numel()), default=0.0)


def _output_sizes(layer: LinearBase, parts: int) -> list[int]:
    """Outputs of each part of a layer, over all workers; empty where vLLM splits them otherwise."""
    if isinstance(layer, QKVParallelLinear):  # its own sizes count copies of shared heads
        kv = layer.total_num_kv_heads
        sizes = [
            layer.total_num_heads * layer.head_size,
            kv * layer.head_size,
            kv * layer.v_head_size,
        ]
    else:
        sizes = list(getattr(layer, "output_sizes", [layer.output_size]))
    if parts == 1:
        return [sum(sizes)]
    return sizes if len(sizes) == parts else []


def _problem(load: _Load) -> str | None:
    """Why a load failed, for people."""
    if not load.future.done() or (error := load.future.exception()) is None:
        return None
    request = load.request
    return f"adapter '{request.lora_name}' ({request.lora_path}) cannot be loaded: {error}"
