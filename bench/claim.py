"""A claim: a name, a sentence, a bound, and the module that measures it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module


class CannotMeasure(Exception):
    """This machine lacks something that a claim needs; the message says what, and the remedy."""


class Sense(StrEnum):
    """Direction of a bound."""

    AT_MOST = "<="
    AT_LEAST = ">="


@dataclass(frozen=True, slots=True)
class Result:
    """A measured value; `holds` is False if a condition beside the bound failed."""

    value: float
    holds: bool = True


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, measured by `measure() -> Result` of its module; `measure` prints its tables."""

    name: str
    what: str
    sense: Sense
    bound: float
    unit: str = ""

    @property
    def module(self) -> str:
        return f"bench.claims.{self.name}"

    def measure(self) -> Result:
        """Import the module now, not earlier: vLLM reads the environment as it is imported."""
        function: Callable[[], Result] = import_module(self.module).measure
        return function()

    def is_met(self, result: Result) -> bool:
        if math.isnan(result.value) or not result.holds:
            return False
        if self.sense is Sense.AT_MOST:
            return result.value <= self.bound
        return result.value >= self.bound

    def verdict(self, result: Result) -> str:
        """Return the line `NAME value bound ok|short`."""
        word = "ok" if self.is_met(result) else "short"
        return f"{self.name} {result.value:.5g} {self.bound:g} {word}"
