"""The report of a conversion."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class ConvertedModule:
    """One module's change D and its factors.

    error: |D - b @ a| / |D|, Frobenius norms; 0 if the factors were copied.
    """

    module: str
    rank: int
    error: float


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What was converted, and how well.

    kind: the method of the adapter, such as `LOHA`.
    logit_change: largest difference between the logits of the base and those of the adapter under
        PEFT, for one sequence of tokens. logit_error: the same between the adapter under PEFT and
        the converted one under PEFT.
    adapter_bytes: size of adapter_model.safetensors.
    """

    kind: str
    base_model: str
    modules: tuple[ConvertedModule, ...]
    exact: bool
    logit_change: float
    logit_error: float
    adapter_bytes: int
    seconds: float
    warnings: tuple[str, ...]

    @property
    def rank(self) -> int:
        """Largest rank of a module."""
        return max(module.rank for module in self.modules)

    @property
    def error(self) -> float:
        """Largest error of a module."""
        return max(module.error for module in self.modules)

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "rank": self.rank, "error": self.error}
