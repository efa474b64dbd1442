"""The report of an extraction: what the adapter holds of the fine-tune, and what it lacks."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class OtherChange:
    """A changed tensor that an adapter cannot hold.

    kind: norm, bias, embedding, vocabulary (rows were added or removed) or other.
    relative: norm of the change divided by the norm of the base's tensor; None if the shapes
        differ, the base's tensor is zero, or one of the two holds NaN or infinity.
    """

    name: str
    kind: str
    relative: float | None
    shape: tuple[int, ...]
    tuned_shape: tuple[int, ...]

    def __str__(self) -> str:
        if self.shape != self.tuned_shape:
            return f"{self.name} ({self.kind}, {list(self.shape)} to {list(self.tuned_shape)})"
        by = "" if self.relative is None else f" by {self.relative:.2g}"
        return f"{self.name} ({self.kind}, changed{by})"


@dataclass(frozen=True, slots=True)
class ModuleReport:
    """One module's change D = W_tuned - W_base [out, in] and its approximation b @ a.

    norm: |D|. relative_change: |D| / |W_base|, None if W_base is zero.
    energy: share of D's squared singular values that the rank keeps.
    error: |D - b @ a| / |D|, with a and b as the adapter stores them.
    error_unrounded: the same before rounding to the adapter's dtype.
    All norms are Frobenius norms.
    """

    module: str
    shape: tuple[int, int]
    rank: int
    norm: float
    relative_change: float | None
    energy: float
    error: float
    error_unrounded: float


@dataclass(frozen=True, slots=True)
class ExtractReport:
    """The result of an extraction.

    unchanged: number of linear modules that are equal in both models, hence not in the adapter.
    other: changed tensors that the adapter does not hold.
    adapter_bytes: size of adapter_model.safetensors.
    """

    base_model: str
    modules: tuple[ModuleReport, ...]
    unchanged: int
    other: tuple[OtherChange, ...]
    adapter_bytes: int
    seconds: float
    warnings: tuple[str, ...]

    @property
    def energy(self) -> float:
        """Share of the squared norm of all changes together that the adapter keeps."""
        return self._mean([m.energy for m in self.modules])

    @property
    def error(self) -> float:
        """Norm of what the adapter lacks, divided by the norm of all changes together."""
        return math.sqrt(self._mean([m.error**2 for m in self.modules]))

    @property
    def parameters(self) -> int:
        """Number of parameters of the adapter."""
        return sum(m.rank * sum(m.shape) for m in self.modules)

    def _mean(self, values: list[float]) -> float:
        weights = [m.norm**2 for m in self.modules]
        return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)

    def to_json(self) -> dict[str, object]:
        return {
            **asdict(self),
            "energy": self.energy,
            "error": self.error,
            "parameters": self.parameters,
        }
