"""Contrastive decoding: what a strong model knows and a weak model does not.

In logits, with the weights of O'Brien and Lewis 2023 (section 3), `1 + beta` and `-beta`, or with
those of Li et al. 2022, 1 and `-1/amateur_temperature`, which no beta gives (`--st_coef 1.0
--student_temperature 0.5` in XiangLi1999/ContrastiveDecoding: 1 and -2). Only tokens that the
expert finds plausible can be chosen, `l >= log(plausibility) + max l` (the alpha of both papers):
otherwise the difference would favour tokens that both models find absurd. Li et al.'s code sets no
threshold in greedy search, only in sampling and beam search: plausibility 0 does the same.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from composer.fields import BASE, Fields, ModelName, Number
from composer.filters import FilterKind, NamedFilter
from composer.plan import Member
from composer.recipes.recipe import Filters, Recipe, Terms


class Contrastive(Fields):
    """(1 + beta)*expert - beta*amateur, or expert - amateur/amateur_temperature, if plausible"""

    recipe: Literal["contrastive"]
    """Name of the method."""

    expert: ModelName = BASE
    """The strong model."""

    amateur: ModelName
    """The weak model, whose habits are subtracted."""

    beta: Annotated[Number, Field(ge=0)] | None = None
    """Strength in the form of O'Brien and Lewis; 0 is the expert alone. If both forms are absent,
    0.5."""

    amateur_temperature: Annotated[Number, Field(gt=0)] | None = None
    """Temperature of the amateur in the form of Li et al., who use 0.5 and 1. Excludes `beta`."""

    plausibility: Annotated[Number, Field(ge=0, le=1)] = 0.1
    """Minimum probability under the expert, relative to its likeliest token; 0 admits all."""

    @model_validator(mode="after")
    def _one_form(self) -> Contrastive:
        if self.beta is not None and self.amateur_temperature is not None:
            raise ValueError(
                f"'beta' ({self.beta:g}) and 'amateur_temperature' ({self.amateur_temperature:g}) "
                "are two forms of the weights; leave one of them out"
            )
        return self

    def weights(self) -> tuple[float, float]:
        """Return the weights of expert and amateur."""
        if self.amateur_temperature is not None:
            return 1.0, -1.0 / self.amateur_temperature
        beta = 0.5 if self.beta is None else self.beta
        return 1.0 + beta, -beta


def build(fields: Contrastive) -> tuple[Terms, Filters]:
    expert, amateur = fields.weights()
    terms = ((Member(fields.expert), expert), (Member(fields.amateur), amateur))
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
