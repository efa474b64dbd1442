"""The distance of two versions of a weight, computed by blocks of rows. Imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.weight_space.model_weights import ModelWeights

_NARROW = frozenset({torch.float32, torch.float16, torch.bfloat16})


@dataclass(frozen=True, slots=True)
class Distance:
    """Squared Frobenius norms: of the difference of two tensors, and of the older one."""

    difference: float
    reference: float

    @property
    def changed(self) -> bool:
        return self.difference != 0

    @property
    def relative(self) -> float | None:
        """Return |new - old| / |old|; None if only old is zero, or if a tensor holds NaN or
        infinity."""
        if not self.changed:
            return 0.0
        squared = self.difference / self.reference if self.reference else math.inf
        return math.sqrt(squared) if math.isfinite(squared) else None


def difference(
    old: ModelWeights,
    new: ModelWeights,
    name: str,
    *,
    new_name: str | None = None,
    into: Tensor | None = None,
) -> Distance:
    """Compute new - old of two tensors; the caller has checked that their shapes are equal.

    Subtracts in float32, or in float64 for wider types. `into` [out, in] f32, if not None, receives
    the difference. NaN or infinity propagates into the distance. `new_name` is the name of the
    tensor in `new` if it differs.
    """
    changed = reference = 0.0
    pairs = zip(old.blocks(name), new.blocks(new_name or name), strict=True)
    for (row, before), (_, after) in pairs:
        narrow = before.dtype in _NARROW and after.dtype in _NARROW
        wide = before.to(torch.float32 if narrow else torch.float64)
        delta = after.to(wide.dtype) - wide
        reference += float(wide.double().square().sum())
        changed += float(delta.double().square().sum())
        if into is not None:
            into[row : row + delta.shape[0]] = delta
    return Distance(changed, reference)
