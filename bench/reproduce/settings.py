"""Settings of each method of `adapters.weight_space.merge`.

The rank is that of the exact sum, 16 per adapter, so that truncation costs a method little; `svd`
has the rank of one adapter, to show what less does. The first parameters are the documented ones:
the paper's, or those explained below. `SCALES` and `OTHERS` are searched on training exercises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from adapters.weight_space.merge import METHODS, Method, RankRule

RANK = 16  # of each of the zoo's adapters
SCALES = (1.0, 0.85, 1.2, 0.7, 1.5, 0.5, 0.3)
"""Factors of all weights; the first of several equally good ones is chosen."""

Parameters: TypeAlias = tuple[tuple[str, float], ...]

FIRST: Mapping[str, Parameters] = {
    "ties": (("density", 0.2),),  # the paper's; lambda is the scale
    "slack": (("density", 0.2), ("slack", 0.2)),
    "dare_linear": (("drop", 0.5),),  # the paper drops up to 0.9 of much larger models' deltas
    "dare_ties": (("drop", 0.5),),
    "wise_ft": (("a", 0.5),),  # the paper's choice if nothing can be measured
    "lines": (("a", 0.5), ("b", 0.5)),  # half of the sum in the first layer, all of it in the last
}
OTHERS: Mapping[str, tuple[Parameters, ...]] = {
    "ties": ((("density", 0.5),),),
    "slack": ((("density", 0.5), ("slack", 0.2)),),
    "dare_linear": ((("drop", 0.2),),),
    "dare_ties": ((("drop", 0.2),),),
}
"""Further parameters to try on training exercises."""

_BY_NAME = {method.name: method for method in METHODS}


@dataclass(frozen=True, slots=True)
class Setting:
    """A method with its parameters; `scale` multiplies all weights."""

    method: str
    parameters: Parameters = ()
    scale: float = 1.0

    @property
    def entry(self) -> Method:
        return _BY_NAME[self.method]

    @property
    def known(self) -> frozenset[str]:
        """Names of the method's parameters."""
        return frozenset(parameter.name for parameter in self.entry.parameters)

    def rank(self, count: int) -> int | None:
        """Return the rank of the result of merging `count` adapters."""
        if self.entry.rank is not RankRule.REQUIRED:
            return None
        return RANK if self.method == "svd" else RANK * count

    def __str__(self) -> str:
        """Return text such as `scale 0.85, density 0.5`."""
        values = [f"{name} {value:g}" for name, value in self.parameters]
        return ", ".join([f"scale {self.scale:g}", *values])


EXACT = Setting("sum")


def documented(method: str) -> Setting:
    """Return the documented setting, with the weights unscaled."""
    return Setting(method, FIRST.get(method, ()))


def candidates(method: str) -> list[Setting]:
    """Return the settings to try on training exercises, the documented one first.

    It is the only one for a method without weights, and for one that scales a single adapter, whose
    candidates are those of `sum`.
    """
    entry = _BY_NAME[method]
    if not entry.weighted or entry.most == 1:
        return [documented(method)]
    parameters = (FIRST.get(method, ()), *OTHERS.get(method, ()))
    return [Setting(method, p, scale) for p, scale in product(parameters, SCALES)]
