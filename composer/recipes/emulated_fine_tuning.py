"""Emulated fine-tuning: pre-training from one model, fine-tuning from others.

`log p ~ log p_ref + sum_i w_i (log p_tuned_i - log p_ref_i)` (Mitchell et al. 2023, section 3).
With a large reference and a small pair this is LM up-scaling; with several pairs the weights trade
one trait against another at test time.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from composer.fields import BASE, MAX_MEMBERS, Fields, ModelName, Number, untuned
from composer.plan import Member
from composer.recipes.recipe import Filters, Recipe, Terms


class Pair(Fields):
    """A fine-tuned model and the model before fine-tuning."""

    tuned: ModelName
    """The fine-tuned model."""

    reference: ModelName | None = None
    """The same model before fine-tuning. If absent, the model that `tuned` is an adapter of:
    `small` of `small:chat`, and otherwise the base."""

    weight: Number = 1.0
    """Factor of the difference; negative subtracts it."""


class EmulatedFineTuning(Fields):
    """reference + sum_i weight_i*(tuned_i - reference_i)"""

    recipe: Literal["emulated_fine_tuning"]
    """Name of the method."""

    reference: ModelName = BASE
    """The pre-trained model to start from."""

    pairs: Annotated[list[Pair], Field(min_length=1, max_length=MAX_MEMBERS)] | None = None
    """The differences to add. Either this or `tuned`."""

    tuned: ModelName | None = None
    """Short form of a single pair: this model and the model that it is an adapter of."""

    weight: Number | None = None
    """Weight of the single pair, 1 if absent. Only with `tuned`."""

    @model_validator(mode="after")
    def _one_way_of_giving_pairs(self) -> EmulatedFineTuning:
        if self.pairs is None and self.tuned is None:
            raise ValueError("there is nothing to add; give 'pairs', or 'tuned' for a single pair")
        if self.pairs is not None and self.tuned is not None:
            raise ValueError(
                f"'tuned' ({self.tuned}) is short for a single pair and excludes 'pairs'; "
                "move it there"
            )
        if self.pairs is not None and self.weight is not None:
            raise ValueError(
                f"'weight' ({self.weight:g}) belongs to 'tuned'; "
                "give every one of 'pairs' its own weight"
            )
        return self

    def all_pairs(self) -> list[Pair]:
        """Return the pairs of either form."""
        if self.pairs is not None:
            return self.pairs
        assert self.tuned is not None, "one of the two forms is there"
        weight = 1.0 if self.weight is None else self.weight
        return [Pair(tuned=self.tuned, weight=weight)]


def build(fields: EmulatedFineTuning) -> tuple[Terms, Filters]:
    terms = [(Member(fields.reference), 1.0)]
    for pair in fields.all_pairs():
        reference = pair.reference or untuned("tuned", pair.tuned, "reference")
        terms += [(Member(pair.tuned), pair.weight), (Member(reference), -pair.weight)]
    return tuple(terms), ()


RECIPE = Recipe(
    title="Emulated fine-tuning",
    citation='Mitchell et al. 2023, "An Emulator for Fine-Tuning Large Language Models using Small '
    'Language Models", arXiv:2310.12962',
    fields=EmulatedFineTuning,
    build=build,
    example={"reference": "chat", "pairs": [{"tuned": "polite", "weight": 0.8}]},
)
