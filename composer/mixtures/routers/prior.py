"""The prior that a rule starts from: fixed weights, or the prompt router's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

from composer.mixtures.routers import fixed, prompt
from composer.mixtures.routers.fixed import FixedRouter, given
from composer.mixtures.routers.prompt import PromptRouter
from composer.mixtures.routers.router import OneOf
from composer.mixtures.specs import PriorTerm, PromptPrior

PriorRouter: TypeAlias = Annotated[FixedRouter | PromptRouter, OneOf((fixed.ROUTER, prompt.ROUTER))]


def sources(
    fields: FixedRouter | PromptRouter | None, experts: Sequence[str]
) -> tuple[tuple[PriorTerm, float], ...]:
    """The prior in the form of `Rules.prior`; nothing where none was given."""
    match fields:
        case None:
            return ()
        case FixedRouter():
            return ((given(fields, experts), 1.0),)
        case PromptRouter(temperature=temperature):
            return ((PromptPrior(temperature), 1.0),)
