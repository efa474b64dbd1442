"""What a recipe is: a published method as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from composer.fields import Fields
from composer.mixtures.specs import MixturePlan
from composer.plan import Member, NamedFilter

Terms: TypeAlias = tuple[tuple[Member, float], ...]
Filters: TypeAlias = tuple[NamedFilter, ...]

F = TypeVar("F", bound=Fields)


@dataclass(frozen=True, slots=True)
class Recipe(Generic[F]):
    """One method.

    `formula` is for readers, in the names of the fields. `fields` is the JSON object that asks for
    the method; its defaults are the paper's. `build` gives terms and filters that are not yet in
    normal form: two terms may be equal, and weights may be zero. `mixture` tells how the terms are
    mixed where they are not added; their weights are then the prior.
    """

    name: str
    title: str
    citation: str
    formula: str
    fields: type[F]
    build: Callable[[F], tuple[Terms, Filters]]
    mixture: Callable[[F], MixturePlan] | None = None
