"""Merge module by module.

In memory at any time: the mapped files of the inputs, the factors of the result so far, and of one
module either its factors or its dense merged delta with a block of half a MiB per adapter. The
peak is below twice the largest delta plus the adapters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from adapters.errors import MergeError
from adapters.weight_space.factors import AdapterReader, Factors, write_adapter
from adapters.weight_space.lowrank import Truncation, truncate_dense, truncate_factors
from adapters.weight_space.merge.inputs import Input, Inputs, inner
from adapters.weight_space.merge.merge_report import MergedModule, MergeReport
from adapters.weight_space.merge.merge_spec import MergeSpec

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with steps done, the total, and the module of the last step.

A step is one module in one pass over the adapters. The count only grows and ends at the total.
"""


def merge(
    spec: MergeSpec,
    readers: Sequence[AdapterReader],
    destination: Path,
    progress: Progress | None = None,
) -> MergeReport:
    """Merge the adapters and write the result into the folder `destination`, in float32.

    `readers` are those of `spec.adapters`, in the same order. Equal specifications and contents
    give equal bytes on one machine. Files are written only after everything is computed.

    Raises:
        MergeError: the adapters do not fit each other, or their merge is zero.
        ValueError: the numbers of readers and adapters differ.
    """
    started = time.perf_counter()
    inputs = Inputs(
        [
            Input(member.adapter, member.weight, reader)
            for member, reader in zip(spec.adapters, readers, strict=True)
            if member.weight != 0
        ]
    )
    steps = _Steps(spec.method.passes, len(inputs.modules), progress)
    combine = spec.method.prepare(inputs, spec.parameters, steps)
    steps.begin_last_pass()
    factors: dict[str, Factors] = {}
    modules: list[MergedModule] = []
    for module in inputs.modules:
        low = _truncated(combine(module), module, spec.rank)
        if low.rank and low.total:
            factors[module] = Factors(low.a, low.b)
            modules.append(MergedModule(module, low.rank, low.kept, low.total))
        steps(module)
    if not factors:
        raise MergeError(
            "the merged delta is zero in every module, so the base model is the result; "
            "change the weights or the parameters"
        )
    bases = inputs.base_models()
    write_adapter(destination, factors, base_model=bases[0] if len(bases) == 1 else None)
    return MergeReport(tuple(modules), _warnings(bases), time.perf_counter() - started)


class _Steps:
    """Counts steps towards a total, also if a method makes fewer passes than `passes`."""

    def __init__(self, passes: int, modules: int, progress: Progress | None) -> None:
        self.beforehand = passes * modules
        self.total = self.beforehand + modules
        self.done = 0
        self.progress = progress

    def __call__(self, module: str) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total, module)

    def begin_last_pass(self) -> None:
        self.done = self.beforehand


def _truncated(delta: Factors | Tensor, module: str, rank: int | None) -> Truncation:
    if isinstance(delta, Tensor):
        _check_range(max(map(float, delta.aminmax()), key=abs), module)
        return truncate_dense(delta, rank=rank)
    energy = inner(delta, delta)
    _check_range(energy, module)
    if rank is not None and delta.rank:
        return truncate_factors(delta.a, delta.b, rank=rank)
    return Truncation(delta.a, delta.b, energy, energy)


def _check_range(value: float, module: str) -> None:
    if not math.isfinite(value):
        raise MergeError(
            f"the merged delta of {module} is too large for float32; give smaller weights"
        )


def _warnings(bases: Sequence[str]) -> tuple[str, ...]:
    if len(bases) < 2:
        return ()
    names = ", ".join(f"'{name}'" for name in bases)
    return (f"the adapters name different base models: {names}; the result does not name one",)
