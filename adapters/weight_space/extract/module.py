"""One module's part of an extraction: read the change, truncate, quantize, measure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.errors import MergeError
from adapters.weight_space.distance import difference
from adapters.weight_space.extract.extract_report import ModuleReport
from adapters.weight_space.extract.extract_spec import ExtractSpec
from adapters.weight_space.extract.packed import PackedModule
from adapters.weight_space.extract.quantization import quantize
from adapters.weight_space.factors import Factors
from adapters.weight_space.lowrank import Truncation, truncate_dense
from adapters.weight_space.model_weights import BLOCK, ModelWeights


@dataclass(frozen=True, slots=True)
class ExtractedModule:
    """factors: of the adapter's dtype. packed: None without quantization."""

    report: ModuleReport
    factors: Factors
    packed: PackedModule | None


def extract_module(
    spec: ExtractSpec, base: ModelWeights, tuned: ModelWeights, module: str
) -> ExtractedModule | None:
    """None where the module has not changed.

    Holds one float32 copy of the change [out, in], and a few times the module's factors.
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
    if not low.rank:  # a change of float64 models that is nothing in float32
        return None
    factors, packed = _store(spec, low)
    report = ModuleReport(
        module=module,
        shape=(height, width),
        rank=low.rank,
        norm=math.sqrt(low.total),
        relative_change=distance.relative,
        energy=low.energy,
        error=_error(delta, factors.a, factors.b, low.total),
        error_unquantized=_error(delta, low.a, low.b, low.total),
    )
    return ExtractedModule(report, factors, packed)


def _store(spec: ExtractSpec, low: Truncation) -> tuple[Factors, PackedModule | None]:
    """The factors as the adapter holds them: quantized and restored, if `spec` wants that."""
    a, b, packed = low.a, low.b, None
    if spec.bits:
        packed = PackedModule.pack(quantize(a, spec.bits), quantize(b.T, spec.bits), spec.bits)
        restored = packed.unpack(spec.bits)
        a, b = restored.a, restored.b
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return Factors(a.to(dtype), b.to(dtype)), packed


def _error(delta: Tensor, a: Tensor, b: Tensor, total: float) -> float:
    """Relative error of b @ a for delta [out, in], whose squared norm is `total`."""
    squared = 0.0
    rows = max(1, BLOCK // delta.shape[1])
    for row in range(0, delta.shape[0], rows):
        rest = delta[row : row + rows] - b[row : row + rows].float() @ a.float()
        squared += float(rest.double().square().sum())
    return math.sqrt(squared / total)
