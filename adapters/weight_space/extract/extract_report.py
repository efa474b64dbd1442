"""What an extraction has kept, and what it could not."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class OtherChange:
    """A changed tensor that an adapter cannot hold.

    kind: norm, bias, embedding, vocabulary (rows were added or removed) or other.
    relative: norm of the change over that of the base's tensor; None where the shapes differ, the
        base's is zero, or one holds NaN or infinity.
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

    norm: of D; relative_change: of D over that of W_base, None where that is 0.
    energy: the share of D's squared singular values that the rank keeps.
    error: norm of D - b @ a over that of D, measured with a and b as the adapter holds them;
    error_unquantized: the same before quantization and rounding to the adapter's dtype.
    All norms are Frobenius norms.
    """

    module: str
    shape: tuple[int, int]
    rank: int
    norm: float
    relative_change: float | None
    energy: float
    error: float
    error_unquantized: float


@dataclass(frozen=True, slots=True)
class ExtractReport:
    """unchanged: how many linear modules are the same in both models, hence not in the adapter.
    other: what changed that the adapter does not hold.
    adapter_bytes: of adapter_model.safetensors. packed_bytes: of the packed form's file, and
    bits_per_parameter the mean there with scales and norms; None without quantization.
    """

    base_model: str
    modules: tuple[ModuleReport, ...]
    unchanged: int
    other: tuple[OtherChange, ...]
    adapter_bytes: int
    packed_bytes: int | None
    bits_per_parameter: float | None
    seconds: float
    warnings: tuple[str, ...]

    @property
    def energy(self) -> float:
        """Kept of the squared norm of all changes together."""
        return self._mean([m.energy for m in self.modules])

    @property
    def error(self) -> float:
        """Norm of what the adapter lacks over that of all changes together."""
        return math.sqrt(self._mean([m.error**2 for m in self.modules]))

    @property
    def error_unquantized(self) -> float:
        return math.sqrt(self._mean([m.error_unquantized**2 for m in self.modules]))

    @property
    def parameters(self) -> int:
        """Numbers in the adapter."""
        return sum(m.rank * sum(m.shape) for m in self.modules)

    def _mean(self, values: list[float]) -> float:
        weights = [m.norm**2 for m in self.modules]
        return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)

    def to_json(self) -> dict[str, object]:
        return {
            **asdict(self),
            "energy": self.energy,
            "error": self.error,
            "error_unquantized": self.error_unquantized,
            "parameters": self.parameters,
        }
