"""What a merging method is: a published method as data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias, TypeGuard

from torch import Tensor

from adapters.errors import MergeError
from adapters.weight_space.factors import Factors
from adapters.weight_space.merge.inputs import Inputs
from composer.errors import quoted

Values: TypeAlias = Mapping[str, float | None]
"""The parameters of a method by name, complete and within their ranges."""

Combine: TypeAlias = Callable[[str], Factors | Tensor]
"""Module -> its merged delta: as factors, exactly, or dense [out, in] f32.

Factors of rank 0 stand for a delta of zeros.
"""

Step: TypeAlias = Callable[[str], None]
"""Called with a module's name after each module of a pass that a method makes beforehand."""


def number(values: Values, name: str) -> float:
    """The parameter `name`, of the kind that is never null."""
    value = values[name]
    if value is None:
        raise ValueError(f"{name} is null")
    return value


def is_number(value: object, *, whole: bool = False) -> TypeGuard[float]:
    """Whether JSON's `value` is a number that a float can hold; `whole`: an integer."""
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond 1.8e308
        return False


class RankRule(Enum):
    """What the specification's `rank` must be."""

    NONE = "null: the method keeps every rank"
    OPTIONAL = "a whole number of at least 1, or null for the exact result"
    REQUIRED = "a whole number of at least 1"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number of a method, between `low` and `high`; which ends belong to the range is said.

    `required` has no default; with `optional`, null is a value. `whole` numbers are integers.
    """

    name: str
    meaning: str
    default: float | None = None
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    whole: bool = False
    required: bool = False
    optional: bool = False

    @property
    def range(self) -> str:
        """For readers: `> 0 and <= 1`."""
        lower = f"{'>' if self.low_open else '>='} {self.low:g}" if self.low > -math.inf else ""
        upper = f"{'<' if self.high_open else '<='} {self.high:g}" if self.high < math.inf else ""
        kind = "a whole number" if self.whole else "a finite number"
        limits = " and ".join(part for part in (lower, upper) if part)
        return f"{kind} {limits}".rstrip() + (" or null" if self.optional else "")

    def check(self, value: object) -> float | None:
        """`value` if it is in the range.

        Raises:
            MergeError: it is not; the message says what would be.
        """
        if value is None and self.optional:
            return None
        if not is_number(value, whole=self.whole) or not self._contains(value):
            raise MergeError(
                f"{self.name} is {quoted(repr(value))[1:-1]}; give {self.range}: {self.meaning}",
                param=self.name,
            )
        return value

    def _contains(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    `formula` is for readers: d_k is the delta of adapter k, w_k its weight. `prepare` reads the
    inputs as often as it must (calling its `Step` `passes` times per module at most) and returns
    what merges one module. Adapters of weight 0 are removed before it is called, so it sees at
    least `least` and at most `most` inputs, none of them with weight 0.
    """

    name: str
    title: str
    citation: str
    formula: str
    prepare: Callable[[Inputs, Values, Step], Combine]
    parameters: tuple[Parameter, ...] = ()
    rank: RankRule = RankRule.REQUIRED
    least: int = 1
    most: int | None = None
    weighted: bool = True
    passes: int = 0
