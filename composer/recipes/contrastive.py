"""Contrastive decoding: what a strong model knows and a weak model does not.

In logits, with the weights of O'Brien and Lewis 2023 (section 3). Only tokens that the expert finds
plausible can be chosen, `l >= log(plausibility) + max l` (their and Li et al.'s alpha): otherwise
the difference would favour tokens that both models find absurd.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from composer.fields import BASE, Fields, ModelName, Number
from composer.filters import FilterKind, NamedFilter
from composer.plan import Member
from composer.recipes.recipe import Filters, Recipe, Terms


class Contrastive(Fields):
    """(1 + beta)*expert - beta*amateur, among the tokens plausible to expert"""

    recipe: Literal["contrastive"]
    """Name of the method."""

    expert: ModelName = BASE
    """The strong model."""

    amateur: ModelName
    """The weak model, whose habits are subtracted."""

    beta: Annotated[Number, Field(ge=0)] = 0.5
    """Strength; 0 is the expert alone."""

    plausibility: Annotated[Number, Field(ge=0, le=1)] = 0.1
    """Minimum probability under the expert, relative to its likeliest token; 0 admits all."""


def build(fields: Contrastive) -> tuple[Terms, Filters]:
    terms = (
        (Member(fields.expert), 1.0 + fields.beta),
        (Member(fields.amateur), -fields.beta),
    )
    return terms, (NamedFilter(FilterKind.PLAUSIBILITY, fields.expert, fields.plausibility),)


RECIPE = Recipe(
    title="Contrastive decoding",
    citation='Li et al. 2022, "Contrastive Decoding: Open-ended Text Generation as Optimization", '
    "arXiv:2210.15097; O'Brien and Lewis 2023, \"Contrastive Decoding Improves Reasoning in Large "
    'Language Models", arXiv:2309.09117',
    fields=Contrastive,
    build=build,
    example={"expert": "chat", "amateur": "base"},
)
