"""Copilot: a small model, trained to correct the logits of the base.

`base + weight*copilot`. In Zou et al. 2025 the copilot learns what the base (their pilot) gets
wrong while the pilot is fine-tuned, and its output is added to the pilot's with a weight lambda.
They add to probabilities, `softmax(pilot) + lambda*f`; here, as in every sum, logits are added.
Their copilot reads the pilot's hidden states; here it is a separate model, which reads only the
tokens and must have been trained to be added to the logits of the base.
"""

from __future__ import annotations

from typing import Literal

from composer.fields import BASE, Fields, ModelName, Number
from composer.plan import Member
from composer.recipes.recipe import Filters, Recipe, Terms


class Copilot(Fields):
    """base + weight*copilot"""

    recipe: Literal["copilot"]
    """Name of the method."""

    base: ModelName = BASE
    """The model to correct."""

    copilot: ModelName
    """A model whose logits are corrections."""

    weight: Number = 1.0
    """How much of the correction to add."""


def build(fields: Copilot) -> tuple[Terms, Filters]:
    return ((Member(fields.base), 1.0), (Member(fields.copilot), fields.weight)), ()


RECIPE = Recipe(
    title="Copilot",
    citation='After Zou et al. 2025, "Transformer Copilot: Learning from The Mistake Log in LLM '
    'Fine-tuning", arXiv:2505.16270',
    fields=Copilot,
    build=build,
    example={"base": "chat", "copilot": "polite", "weight": 0.5},
)
