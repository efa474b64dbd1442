"""Classifier-free guidance: move the answer towards its prompt, or away from another one.

`uncond + guidance_scale*(cond - uncond)` on log-probabilities, as transformers'
`UnbatchedClassifierFreeGuidanceLogitsProcessor` computes it before its penalties. As there,
the unconditional member reads only the last token of the prompt unless there is a negative prompt.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from composer.fields import BASE, MAX_MESSAGES, Fields, Message, ModelName, Number, pairs
from composer.plan import Member
from composer.prompts import LastToken, MessagesPrompt, Prompt, TextPrompt
from composer.recipes.recipe import Filters, Recipe, Terms

Text = Annotated[str, Field(min_length=1)]
Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]


class ClassifierFreeGuidance(Fields):
    """guidance_scale*model(prompt) + (1 - guidance_scale)*model(negative_prompt)"""

    recipe: Literal["classifier_free_guidance"]
    """Name of the method."""

    model: ModelName = BASE
    """The model that reads both prompts."""

    guidance_scale: Annotated[Number, Field(gt=0)] = 1.5
    """Strength; 1 is the model alone."""

    negative_prompt: Text | Messages | None = None
    """Prompt to move away from: a text or chat messages. If absent, the prompt's last token."""


def build(fields: ClassifierFreeGuidance) -> tuple[Terms, Filters]:
    negative: Prompt
    match fields.negative_prompt:
        case None:
            negative = LastToken()
        case str(text):
            negative = TextPrompt(text)
        case messages:
            negative = MessagesPrompt(pairs(messages))
    terms = (
        (Member(fields.model), fields.guidance_scale),
        (Member(fields.model, negative), 1.0 - fields.guidance_scale),
    )
    return terms, ()


RECIPE = Recipe(
    title="Classifier-free guidance",
    citation='Sanchez et al. 2023, "Stay on topic with Classifier-Free Guidance", arXiv:2306.17806',
    fields=ClassifierFreeGuidance,
    build=build,
    example={"model": "chat", "negative_prompt": "Where does Ann live?"},
    log_softmax=True,
)
