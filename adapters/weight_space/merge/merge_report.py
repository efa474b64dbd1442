"""The report of a merge."""

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
        """Return the share of the merged delta's energy that the rank keeps, 0 to 1."""
        return min(self.kept / self.total, 1.0) if self.total else 1.0


@dataclass(frozen=True, slots=True)
class MergeReport:
    """The result of a merge. `modules` is sorted by name, without modules of zero delta."""

    modules: tuple[MergedModule, ...]
    warnings: tuple[str, ...]
    seconds: float

    @property
    def rank(self) -> int:
        """Return the largest rank of a module, for which the engine needs room."""
        return max(module.rank for module in self.modules)

    @property
    def energy(self) -> float:
        """Return the kept share of the energy of all deltas together."""
        total = sum(module.total for module in self.modules)
        kept = sum(module.kept for module in self.modules)
        return min(kept / total, 1.0) if total else 1.0

    def to_json(self) -> dict[str, object]:
        """Return a JSON object for people and logs."""
        return {
            "rank": self.rank,
            "energy_kept": self.energy,
            "seconds": self.seconds,
            "warnings": list(self.warnings),
            "modules": {m.module: {"rank": m.rank, "energy_kept": m.energy} for m in self.modules},
        }
