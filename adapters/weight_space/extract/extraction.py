"""Extract an adapter from a full fine-tune by a truncated SVD of what training changed.

The change W_tuned - W_base of each linear module is replaced by its best approximation of a small
rank. Each factor takes the square root of every singular value, and alpha = rank. Only one
module's change is in memory at a time, beside the factors computed so far.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import torch

from adapters.errors import MergeError
from adapters.inspection.inspect import WEIGHTS
from adapters.weight_space.extract.extract_report import ExtractReport
from adapters.weight_space.extract.extract_spec import MAX_RANK, ExtractSpec
from adapters.weight_space.extract.module import ExtractedModule, extract_module
from adapters.weight_space.extract.verification import ChangedTensors, Progress, compare
from adapters.weight_space.factors import write_adapter
from adapters.weight_space.model_weights import ModelWeights


def extract(
    spec: ExtractSpec,
    base: Path,
    tuned: Path,
    destination: Path,
    progress: Progress | None = None,
) -> ExtractReport:
    """Write the adapter's two files into the folder `destination`.

    Raises:
        MergeError: the models do not fit each other, or tensors changed that an adapter cannot
            hold.
    """
    started = time.monotonic()
    before, after = ModelWeights(base), ModelWeights(tuned)
    comparison = compare(before, after, progress)
    if comparison.other and not spec.ignore_other_changes:
        raise MergeError(comparison.refusal(), param="ignore_other_changes")
    linear = comparison.linear
    extracted: dict[str, ExtractedModule] = {}
    for done, module in enumerate(linear, comparison.compared + 1):
        if result := extract_module(spec, before, after, module):
            extracted[module] = result
        if progress is not None:
            progress(done, comparison.compared + len(linear), module)
    if not extracted:
        raise MergeError(
            f"'{tuned}' and '{base}' have the same linear weights, so there is nothing to extract. "
            "Give the fine-tuned model as the tuned one."
        )
    base_model = spec.base_model or str(base)
    write_adapter(
        destination,
        {name: module.factors for name, module in extracted.items()},
        base_model=base_model,
        dtype=getattr(torch, spec.dtype),
    )
    return ExtractReport(
        base_model=base_model,
        modules=tuple(module.report for module in extracted.values()),
        unchanged=len(linear) - len(extracted),
        other=comparison.other,
        adapter_bytes=(destination / WEIGHTS).stat().st_size,
        seconds=time.monotonic() - started,
        warnings=_warnings(spec, before, after, comparison, extracted),
    )


def _warnings(
    spec: ExtractSpec,
    base: ModelWeights,
    tuned: ModelWeights,
    comparison: ChangedTensors,
    extracted: Mapping[str, ExtractedModule],
) -> tuple[str, ...]:
    texts = [f"{change} is not in the adapter" for change in comparison.other]
    reports = [module.report for module in extracted.values()]
    dtypes = [{str(m.tensors[f"{name}.weight"].dtype) for name in extracted} for m in (base, tuned)]
    if dtypes[0] != dtypes[1]:
        names = [", ".join(sorted(d)).replace("torch.", "") for d in dtypes]
        texts.append(
            f"the base is stored as {names[0]} and the tuned model as {names[1]}, so the adapter "
            "holds the rounding as well; store both alike"
        )
    if spec.energy is not None:
        capped = [r for r in reports if r.rank == spec.max_rank and r.energy < spec.energy]
        if capped:
            least = min(capped, key=lambda r: r.energy)
            texts.append(
                f"max_rank {spec.max_rank} keeps {len(capped)} of {len(reports)} modules below the "
                f"energy {spec.energy:g}; the least is {least.energy:.3f} of {least.module}"
            )
    if (rank := max(r.rank for r in reports)) > MAX_RANK:
        texts.append(f"the rank {rank} exceeds {MAX_RANK}, the most that vLLM serves")
    return tuple(texts)
