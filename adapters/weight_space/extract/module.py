"""Extract one module: read its change, truncate it and measure the error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.errors import MergeError
from adapters.weight_space.distance import difference
from adapters.weight_space.extract.extract_report import ModuleReport
from adapters.weight_space.extract.extract_spec import ExtractSpec
from adapters.weight_space.factors import Factors
from adapters.weight_space.lowrank import truncate_dense
from adapters.weight_space.model_weights import BLOCK, ModelWeights


@dataclass(frozen=True, slots=True)
class ExtractedModule:
    """The factors of one module, in the adapter's dtype, and how well they fit."""

    report: ModuleReport
    factors: Factors


def extract_module(
    spec: ExtractSpec, base: ModelWeights, tuned: ModelWeights, module: str
) -> ExtractedModule | None:
    """Return the factors of a module's change; None if the module did not change.

    Peak memory: one float32 copy of the change [out, in] and a few copies of the factors.
    """
    name = f"{module}.weight"
    height, width = base.tensors[name].shape
    delta = torch.empty(height, width)
    distance = difference(base, tuned, name, into=delta)
    if not math.isfinite(distance.difference):
        raise MergeError(
            f"{name} holds NaN or infinity in '{base.folder}' or '{tuned.folder}'. Give models "
            "with finite weights."
        )
    if not distance.changed:
        return None
    rank = spec.rank if spec.energy is None else spec.max_rank
    low = truncate_dense(delta, rank=rank, energy=spec.energy, seed=spec.seed)
    if not low.rank:  # a change of float64 models that vanishes in float32
        return None
    dtype: torch.dtype = getattr(torch, spec.dtype)
    factors = Factors(low.a.to(dtype), low.b.to(dtype))
    report = ModuleReport(
        module=module,
        shape=(height, width),
        rank=low.rank,
        norm=math.sqrt(low.total),
        relative_change=distance.relative,
        energy=low.energy,
        error=relative_error(delta, factors.a, factors.b, low.total),
        error_unrounded=relative_error(delta, low.a, low.b, low.total),
    )
    return ExtractedModule(report, factors)


def relative_error(delta: Tensor, a: Tensor, b: Tensor, total: float) -> float:
    """Return |delta - b @ a| / |delta| for delta [out, in] with the squared norm `total`."""
    squared = 0.0
    rows = max(1, BLOCK // delta.shape[1])
    for row in range(0, delta.shape[0], rows):
        rest = delta[row : row + rows] - b[row : row + rows].float() @ a.float()
        squared += float(rest.double().square().sum())
    return math.sqrt(squared / total)
