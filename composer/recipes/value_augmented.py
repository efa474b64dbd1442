"""Value-augmented sampling: a value model steers the base towards tokens with more reward.

`z = base + sum_i beta_i*value_i`, among the base's likeliest tokens (Han et al. 2024, section 4;
`vas_trainer.py` of idanshen/Value-Augmented-Sampling takes 20). The authors centre the values over
these tokens, which adds the same number to every token that can be chosen and so changes nothing.
Several values, each with its own beta, trade rewards against each other at test time.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from composer.fields import BASE, MAX_MEMBERS, Fields, ModelName, Number
from composer.filters import MAX_TOP_K, FilterKind, NamedFilter
from composer.plan import Member
from composer.recipes.recipe import Filters, Recipe, Terms


class Value(Fields):
    """A model of one reward, and its strength."""

    model: ModelName
    """A model whose logits are values: the expected reward after each token."""

    beta: Number = 1.0
    """Strength; negative avoids the reward."""


class ValueAugmented(Fields):
    """base + sum_i beta_i*value_i, among the top-k of base"""

    recipe: Literal["value_augmented"]
    """Name of the method."""

    base: ModelName = BASE
    """The model to steer."""

    values: Annotated[list[Value], Field(min_length=1, max_length=MAX_MEMBERS)]
    """The value models to steer with."""

    top_k: Annotated[int, Field(strict=True, ge=1, le=MAX_TOP_K)] = 20
    """Number of the base's likeliest tokens that can be chosen."""


def build(fields: ValueAugmented) -> tuple[Terms, Filters]:
    terms = (
        (Member(fields.base), 1.0),
        *((Member(value.model), value.beta) for value in fields.values),
    )
    return terms, (NamedFilter(FilterKind.TOP_K, fields.base, fields.top_k),)


RECIPE = Recipe(
    title="Value-augmented sampling",
    citation='Han et al. 2024, "Value Augmented Sampling for Language Model Alignment and '
    'Personalization", arXiv:2405.06639',
    fields=ValueAugmented,
    build=build,
    example={"base": "chat", "values": [{"model": "polite", "beta": 0.5}]},
)
