"""Value-augmented sampling: a value model steers the base towards tokens with more reward.

`z = base + sum_i beta_i*value_i` on the base's likeliest tokens (Han et al. 2024, section 4).
`VASLogitsProcessor` in `vas_trainer.py` of idanshen/Value-Augmented-Sampling takes 20, centres the
values over them and leaves all other tokens the base's scores. `cut` drops the others instead; then
the centring changes nothing. The paper's own equation, with the values of all tokens, is the limit
of a large `top_k`. Several values, each with its own beta, trade rewards against each other at test
time.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from composer.fields import BASE, MAX_MEMBERS, Fields, Flag, ModelName, Number
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
    """base + sum_i beta_i*value_i, values centred over the top-k of base, 0 elsewhere"""

    recipe: Literal["value_augmented"]
    """Name of the method."""

    base: ModelName = BASE
    """The model to steer."""

    values: Annotated[list[Value], Field(min_length=1, max_length=MAX_MEMBERS)]
    """The value models to steer with."""

    top_k: Annotated[int, Field(strict=True, ge=1, le=MAX_TOP_K)] = 20
    """Number of the base's likeliest tokens whose values count."""

    cut: Flag = False
    """Whether no other token can be chosen. By default others keep the base's logits."""


def build(fields: ValueAugmented) -> tuple[Terms, Filters]:
    terms = (
        (Member(fields.base), 1.0),
        *((Member(value.model), value.beta) for value in fields.values),
    )
    kind = FilterKind.TOP_K if fields.cut else FilterKind.SOFT_TOP_K
    return terms, (NamedFilter(kind, fields.base, fields.top_k),)


RECIPE = Recipe(
    title="Value-augmented sampling",
    citation='Han et al. 2024, "Value Augmented Sampling for Language Model Alignment and '
    'Personalization", arXiv:2405.06639',
    fields=ValueAugmented,
    build=build,
    example={"base": "chat", "values": [{"model": "polite", "beta": 0.5}]},
)
