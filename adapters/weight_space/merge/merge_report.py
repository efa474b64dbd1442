"""What came out of a merge."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MergedModule:
    """One module of the result. Energies are squared Frobenius norms of its delta."""

    module: str
    rank: int
    kept: float
    total: float

    @property
    def energy(self) -> float:
        """The share of the merged delta's energy that its rank could keep, 0 to 1."""
        return min(self.kept / self.total, 1.0) if self.total else 1.0


@dataclass(frozen=True, slots=True)
class MergeReport:
    """`modules` are those of the result, by name; modules whose delta is zero are left out."""

    modules: tuple[MergedModule, ...]
    warnings: tuple[str, ...]
    seconds: float

    @property
    def rank(self) -> int:
        """The largest of any module: what the engine must make room for."""
        return max(module.rank for module in self.modules)

    @property
    def energy(self) -> float:
        """The share of the energy of all deltas together that was kept."""
        total = sum(module.total for module in self.modules)
        kept = sum(module.kept for module in self.modules)
        return min(kept / total, 1.0) if total else 1.0

    def to_json(self) -> dict[str, object]:
        """For people and logs; nothing reads it back."""
        return {
            "rank": self.rank,
            "energy_kept": self.energy,
            "seconds": self.seconds,
            "warnings": list(self.warnings),
            "modules": {m.module: {"rank": m.rank, "energy_kept": m.energy} for m in self.modules},
        }
