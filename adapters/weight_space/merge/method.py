"""A merging method, described as data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, create_model
from torch import Tensor

from adapters.weight_space.factors import Factors
from adapters.weight_space.merge.inputs import Inputs
from composer.fields import Fields, Number

Values: TypeAlias = Mapping[str, float | None]
"""The parameters of a method by name, complete and within their ranges."""

Combine: TypeAlias = Callable[[str], Factors | Tensor]
"""Module -> its merged delta: exact factors, or a dense tensor [out, in] f32.

Factors of rank 0 stand for a zero delta.
"""

Step: TypeAlias = Callable[[str], None]
"""Called with a module's name after each module of a preparatory pass."""


def number(values: Values, name: str) -> float:
    """Return the parameter `name`, which must not be null."""
    value = values[name]
    if value is None:
        raise ValueError(f"{name} is null")
    return value


class MergeMember(Fields):
    """An adapter to merge and its weight. An adapter of weight 0 takes no part."""

    adapter: Annotated[str, Field(min_length=1)]
    """The adapter: an alias of the server, or a folder on the command line."""

    weight: Number = 1.0
    """What its change is multiplied with."""


def _refuse_rank(value: object) -> object:
    if value is not None:
        raise ValueError(
            f"it is {value!r}, but this method keeps every rank; leave it out, or use 'svd'"
        )
    return value


class RankRule(Enum):
    """What a method accepts as the rank of its result."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


_Rank = Annotated[int, Field(strict=True, ge=1)]
_RANK_FIELDS: Mapping[RankRule, tuple[Any, Any]] = {
    RankRule.NONE: (Annotated[None, BeforeValidator(_refuse_rank)], None),
    RankRule.OPTIONAL: (_Rank | None, None),
    RankRule.REQUIRED: (_Rank, ...),
}
"""Type and default of the pydantic field."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number of a method, from `low` to `high`; an open end is not part of the range.

    A `required` parameter has no default; an `optional` one may be null; a `whole` one is an
    integer.
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
    def field(self) -> tuple[Any, Any]:
        """Return type and default of the pydantic field."""
        limits: dict[str, Any] = {}
        if self.low > -math.inf:
            limits["gt" if self.low_open else "ge"] = self.low
        if self.high < math.inf:
            limits["lt" if self.high_open else "le"] = self.high
        kind = int if self.whole else float
        if not self.whole:
            limits["allow_inf_nan"] = False
        bounded: Any = Annotated[kind, Field(strict=True, **limits)]
        default: Any = ... if self.required else self.default
        return bounded | None if self.optional else bounded, Field(
            default, description=self.meaning
        )


@dataclass(frozen=True)
class Method:
    """One method.

    `formula` is for readers: d_k is the delta of adapter k, w_k its weight. `prepare` reads the
    inputs as often as it must (calling its `Step` at most `passes` times per module) and returns
    the function that merges one module. It sees between `least` and `most` inputs, none of weight
    0. The methods that are not `weighted` take weights of 1 only.
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

    @cached_property
    def fields(self) -> type[Fields]:
        """The pydantic model of a merge by this method, as JSON describes it."""
        fields: dict[str, Any] = {
            "method": (Literal[self.name], ...),
            "adapters": (Annotated[list[MergeMember], Field(min_length=1)], ...),
            "rank": _RANK_FIELDS[self.rank],
            **{parameter.name: parameter.field for parameter in self.parameters},
        }
        about = f"{self.title}: {self.formula}. {self.citation}."
        return create_model(f"Merge_{self.name}", __base__=Fields, __doc__=about, **fields)
