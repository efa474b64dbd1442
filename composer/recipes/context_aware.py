"""Context-aware decoding: trust the prompt over what the model has memorised.

`(1 + alpha)*logit(y | context, query) - alpha*logit(y | query)` (Shi et al. 2023, equation 3), a
product of probabilities, so log-probabilities are added. The
request's prompt contains the context; the second member reads the prompt without it and without the
blank that followed it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from composer.fields import BASE, Fields, ModelName, Number
from composer.plan import Member
from composer.prompts import WithoutText
from composer.recipes.recipe import Filters, Recipe, Terms


class ContextAware(Fields):
    """(1 + alpha)*model(prompt) - alpha*model(prompt without context)"""

    recipe: Literal["context_aware"]
    """Name of the method."""

    model: ModelName = BASE
    """The model that reads both prompts."""

    context: Annotated[str, Field(min_length=1)]
    """Part of the prompt to trust, verbatim. White space after it goes with it."""

    alpha: Annotated[Number, Field(ge=0)] = 0.5
    """Strength; 0 is the model alone."""


def build(fields: ContextAware) -> tuple[Terms, Filters]:
    terms = (
        (Member(fields.model), 1.0 + fields.alpha),
        (Member(fields.model, WithoutText(fields.context)), -fields.alpha),
    )
    return terms, ()


RECIPE = Recipe(
    title="Context-aware decoding",
    citation='Shi et al. 2023, "Trusting Your Evidence: Hallucinate Less with Context-aware '
    'Decoding", arXiv:2305.14739',
    fields=ContextAware,
    build=build,
    example={"model": "chat", "context": "Ann lives in Mogtu."},
    log_softmax=True,
)
