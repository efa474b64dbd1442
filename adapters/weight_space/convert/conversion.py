"""Convert an adapter of any kind that changes weights into plain LoRA.

The change of every weight, as PEFT merges it, is replaced by two factors: those of the adapter if
it is LoRA already, else its decomposition into singular values. A change whose rank is at most what
vLLM serves is held exactly, up to the rounding of float32: LoHa, LoKr and VeRA of usual sizes,
retrained tokens, an initialization taken out of the base. Others, like those of DoRA and IA3, have
the full rank of the weight, and are cut only on request.

At the end PEFT answers one sequence of tokens with both adapters, and the report compares them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor

from adapters.errors import AdapterError, MergeError
from adapters.files import WEIGHTS
from adapters.generation import alias_of
from adapters.inspection.inspect import inspect
from adapters.inspection.problems import listing
from adapters.weight_space.convert import peft_adapter
from adapters.weight_space.convert.convert_report import ConvertedModule, ConvertReport
from adapters.weight_space.convert.convert_spec import ConvertJob
from adapters.weight_space.convert.module_changes import WeightChange, changes_of, units_of
from adapters.weight_space.convert.peft_adapter import MERGE_REMEDY, PeftAdapter
from adapters.weight_space.extract.extract_spec import MAX_RANK
from adapters.weight_space.extract.module import relative_error
from adapters.weight_space.factors import Factors, write_adapter
from adapters.weight_space.lowrank import frobenius_squared, truncate_dense
from adapters.weight_space.model_weights import ModelWeights
from adapters.weight_space.patch import read_shapes

Progress: TypeAlias = Callable[[int, int, str], None]

EXACT = 1e-5
"""Largest relative error of a module whose conversion counts as exact; float32 gives about 1e-7."""

_LOGIT_ERROR = 1e-3
"""Largest error of the logits of an exact conversion, as a share of the adapter's own change."""

_NOISE = 1e-5
"""The same as a share of the largest logit: the rounding of the model in float32."""

_PUBLISHED_RANK = 16
"""What a server takes that was started without an adapter of a larger rank."""


@dataclass(frozen=True, slots=True)
class _Converted:
    """The factors of one module; of an embedding a [r, V] and b [H, r]."""

    report: ConvertedModule
    factors: Factors
    embedding: bool


def convert(job: ConvertJob, destination: Path, progress: Progress | None = None) -> ConvertReport:
    """Write the converted adapter's two files into the folder `destination`.

    Memory: the base model in float32, and the adapter.

    Raises:
        AdapterError: the adapter cannot be read, or changes what LoRA cannot hold.
        MergeError: the conversion would not be exact, and neither `rank` nor `energy` allows that.
    """
    started = time.monotonic()
    ModelWeights(job.base)  # refuses what is not a whole model without quantization
    shapes = read_shapes(job.base)
    adapter = peft_adapter.load(job.adapter, job.base, job.initial)
    expected = peft_adapter.logits(adapter.model)
    modules = _convert_modules(job, adapter, progress)
    reports = tuple(module.report for module in modules)
    exact = all(report.error <= EXACT for report in reports)
    if not exact and job.rank is None and job.energy is None:
        raise MergeError(_inexact(job, adapter.kind, reports), param="rank")
    base_model = job.base_model or adapter.base_model or str(job.base)
    write_adapter(
        destination,
        {module.report.module: module.factors for module in modules},
        base_model=base_model,
        embeddings=frozenset(m.report.module for m in modules if m.embedding),
    )
    kind = adapter.kind
    del adapter  # one copy of the base in memory at a time
    inspect(destination, alias_of(destination), shapes)
    change, error, bound = _compare(job.base, destination, expected)
    if exact and error > bound:
        raise MergeError(
            f"the converted adapter answers otherwise: the logits differ by {error:.3g}, where "
            f"'{job.adapter}' changes those of the base by {change:.3g}. {MERGE_REMEDY}."
        )
    return ConvertReport(
        kind=kind,
        base_model=base_model,
        modules=reports,
        exact=exact,
        logit_change=change,
        logit_error=error,
        adapter_bytes=(destination / WEIGHTS).stat().st_size,
        seconds=time.monotonic() - started,
        warnings=tuple(_warnings(reports, exact, change, error)),
    )


def _convert_modules(
    job: ConvertJob, adapter: PeftAdapter, progress: Progress | None
) -> list[_Converted]:
    modules, other = [], []
    total = sum(1 for _ in units_of(adapter.model))
    for change in _changes(job, adapter):
        if not change.fits:
            other.append(change.module)
            continue
        if not other:  # else all that is left is to name the others
            modules.append(_convert_module(job, change))
        if progress is not None:
            progress(len(modules), total, change.module)
    if other:
        _fail(job, f"it changes what LoRA cannot hold: {listing(sorted(set(other)))}", MERGE_REMEDY)
    if not modules:
        _fail(job, "it changes nothing", "Give a trained adapter")
    return modules


def _changes(job: ConvertJob, adapter: PeftAdapter) -> Iterator[WeightChange]:
    try:
        yield from changes_of(adapter)
    except (RuntimeError, ValueError, TypeError) as error:
        _fail(
            job,
            f"PEFT does not merge this {adapter.kind}: {str(error).rstrip('.')}",
            "Train a plain LoRA adapter",
        )


def _convert_module(job: ConvertJob, change: WeightChange) -> _Converted:
    factors, error = change.factors, 0.0
    if factors is None:
        factors, error = _decompose(job, _delta(change), rows=change.embedding)
    return _Converted(
        ConvertedModule(change.module, factors.rank, error), factors, change.embedding
    )


def _delta(change: WeightChange) -> Tensor:
    assert change.delta is not None
    return change.delta


def _decompose(job: ConvertJob, delta: Tensor, *, rows: bool) -> tuple[Factors, float]:
    """Return the factors of delta [out, in] f32, and the relative error.

    rows: prefer single columns, the tokens that an embedding retrained, to singular vectors.
    """
    rank = job.rank or MAX_RANK
    if rows:
        changed = delta.any(dim=0).nonzero()[:, 0]
        if len(changed) <= rank:
            a = torch.zeros(len(changed), delta.shape[1])
            a[torch.arange(len(changed)), changed] = 1
            return Factors(a, delta[:, changed]), 0.0
    low = truncate_dense(delta, rank=rank, energy=job.energy)
    return Factors(low.a, low.b), relative_error(delta, low.a, low.b, frobenius_squared(delta))


def _inexact(job: ConvertJob, kind: str, reports: Sequence[ConvertedModule]) -> str:
    """Return why the conversion is refused, and by how much it would err."""
    wrong = [report for report in reports if report.error > EXACT]
    worst = max(wrong, key=lambda report: report.error)
    return (
        f"'{job.adapter}' ({kind}) cannot be converted exactly: its change of {len(wrong)} of "
        f"{len(reports)} modules has a rank above {MAX_RANK}, the most that vLLM serves; at that "
        f"rank {worst.module} would be off by {worst.error:.2g} of its change. Accept an error "
        f"with --rank N or --energy SHARE, and measure what it costs; or: {MERGE_REMEDY}."
    )


def _compare(base: Path, converted: Path, expected: Tensor) -> tuple[float, float, float]:
    """Return the change of the base's logits, the error against `expected`, and its bound."""
    model: Any = peft_adapter.load_base(base)
    plain = peft_adapter.logits(model)
    got = peft_adapter.logits(peft_adapter.load_converted(converted, model))
    change = float((expected - plain).abs().max())
    error = float((got - expected).abs().max())
    return change, error, _LOGIT_ERROR * change + _NOISE * float(expected.abs().max())


def _warnings(
    reports: Sequence[ConvertedModule], exact: bool, change: float, error: float
) -> Iterator[str]:
    if not exact:
        worst = max(reports, key=lambda report: report.error)
        yield (
            f"it is not exact: {worst.module} is off by {worst.error:.2g} of its change, the "
            f"logits by {error:.2g} where the adapter changes them by {change:.2g}: measure it"
        )
    if (rank := max(report.rank for report in reports)) > _PUBLISHED_RANK:
        yield f"its rank is {rank}: to publish it, start the server with --max-lora-rank"


def _fail(job: ConvertJob, problem: str, remedy: str) -> NoReturn:
    raise AdapterError(alias_of(job.adapter.resolve()), job.adapter, problem, remedy)
