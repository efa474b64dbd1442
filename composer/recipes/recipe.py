"""What a recipe is: a published method as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from composer.fields import Fields, constant
from composer.filters import NamedFilter
from composer.mixtures.specs import MixturePlan
from composer.plan import Member

Terms: TypeAlias = tuple[tuple[Member, float], ...]
Filters: TypeAlias = tuple[NamedFilter, ...]

F = TypeVar("F", bound=Fields)


@dataclass(frozen=True, slots=True)
class Recipe(Generic[F]):
    """One method.

    `fields` is the JSON object that asks for the method: its docstring is the formula, in the names
    of the fields, and its defaults are the paper's. `example` holds the fields of one such object
    besides `recipe`. `build` returns terms and filters before normalization: two terms may be
    equal, and weights may be zero. If the terms are mixed instead of added, `mixture` returns how,
    and the weights of the terms are the prior.

    `log_softmax` says whether the authors add log-probabilities instead of logits. The distribution
    is the same; a repetition penalty, which depends on the sign, is not.
    """

    title: str
    citation: str
    fields: type[F]
    build: Callable[[F], tuple[Terms, Filters]]
    example: Mapping[str, Any]
    mixture: Callable[[F], MixturePlan] | None = None
    log_softmax: bool = False

    @property
    def name(self) -> str:
        """The value of the field `recipe`."""
        return constant(self.fields, "recipe")

    @property
    def formula(self) -> str:
        """What the method computes."""
        return self.fields.__doc__ or ""
