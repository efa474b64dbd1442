"""Peak memory of composing one step, beyond the logits that vLLM computes anyway."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.claim import Result
from bench.measure import show, table
from composer.filters import Filter, FilterKind
from composer.tensors.compose import Composition
from composer.tensors.gang_rows import GangRows

VOCABULARY = 32_000
GANGS = 4
FILTERS: dict[str, tuple[Filter, ...]] = {
    "none": (),
    "top-p": (Filter(FilterKind.TOP_P, 0, 0.9),),
    "plausibility": (Filter(FilterKind.PLAUSIBILITY, 1, 0.1),),
    "top-k": (Filter(FilterKind.TOP_K, 0, 20),),
    "soft top-k": (Filter(FilterKind.SOFT_TOP_K, 0, 20),),
    "both": (Filter(FilterKind.TOP_P, 0, 0.9), Filter(FilterKind.PLAUSIBILITY, 1, 0.1)),
}


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record the peak size of all live storages that operations allocate."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live: WeakKeyDictionary[torch.UntypedStorage, int] = WeakKeyDictionary()  # bytes
        self._known: set[int] = set()
        self.peak_bytes: int = 0

    def know(self, *tensors: torch.Tensor) -> None:
        """Exclude the storages of these tensors, which exist already."""
        self._known.update(tensor.untyped_storage().data_ptr() for tensor in tensors)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage.data_ptr() not in self._known:
                    self._live[storage] = storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, sum(self._live.values()))
        return out


def peak_rows(size: int, filters: tuple[Filter, ...]) -> float:
    """Return the peak for gangs of `size` rows, in f32 rows of vocabulary size per gang."""
    weights = (1.0, *((-1.0) ** k * 0.5 for k in range(size - 1)))
    gangs = [
        GangRows(tuple(range(g * size, (g + 1) * size)), weights, filters) for g in range(GANGS)
    ]
    composition = Composition(gangs, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(GANGS * size, VOCABULARY, generator=generator)
    with PeakMemory() as memory:
        memory.know(logits)
        composition.compose(logits)
    return float(memory.peak_bytes / (GANGS * VOCABULARY * 4))


def measure() -> Result:
    """Return the worst case over gangs of 3 and 8 rows, with and without filters."""
    rows, worst = [], 0.0
    for size in (3, 8):
        for name, filters in FILTERS.items():
            extra = peak_rows(size, filters)
            worst = max(worst, extra)
            rows.append((size, name, f"{extra:.3f}", f"{extra / size:.3f}"))
    show(f"{GANGS} gangs, vocabulary of {VOCABULARY}; logits of vLLM itself: one row per member")
    show(table(("rows per gang", "filters", "peak, rows per gang", "of vLLM's logits"), rows))
    return Result(worst)
