"""DExperts: an expert and an anti-expert steer the base within its nucleus.

Like proxy-tuning, but only tokens in the top-p of the base can be chosen: its logits are filtered
first, as in `generation/dexperts_generation.py` of alisawuffles/DExperts (`filter_p`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from composer.fields import BASE, Fields, ModelName, Number
from composer.filters import FilterKind, NamedFilter
from composer.plan import Member
from composer.recipes.recipe import Filters, Recipe, Terms


class DExperts(Fields):
    """base + alpha*(expert - anti_expert), within the top-p of base"""

    recipe: Literal["dexperts"]
    """Name of the method."""

    base: ModelName = BASE
    """The model to steer."""

    expert: ModelName
    """A model of the desired behaviour."""

    anti_expert: ModelName
    """A model of the undesired behaviour."""

    alpha: Number = 2.0
    """Strength: 2.0 against toxicity, 3.2 for sentiment; negative steers the other way."""

    top_p: Annotated[Number, Field(gt=0, le=1)] = 0.9
    """Mass of the base's nucleus, outside which no token can be chosen; 1 admits all."""


def build(fields: DExperts) -> tuple[Terms, Filters]:
    terms = (
        (Member(fields.base), 1.0),
        (Member(fields.expert), fields.alpha),
        (Member(fields.anti_expert), -fields.alpha),
    )
    return terms, (NamedFilter(FilterKind.TOP_P, fields.base, fields.top_p),)


RECIPE = Recipe(
    title="DExperts",
    citation='Liu et al. 2021, "DExperts: Decoding-Time Controlled Text Generation with Experts '
    'and Anti-Experts", arXiv:2105.03023',
    fields=DExperts,
    build=build,
    example={"base": "chat", "expert": "polite", "anti_expert": "rude"},
)
