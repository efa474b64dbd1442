"""The prior that a rule starts from: fixed weights, or the prompt router's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

from composer.mixture import Similar, Source
from composer.routers.fixed import FixedRouter, given
from composer.routers.prompt import PromptRouter
from composer.routers.router import BY_KIND, by_kind

PriorRouter: TypeAlias = Annotated[FixedRouter | PromptRouter, BY_KIND, by_kind("fixed", "prompt")]


def sources(
    fields: FixedRouter | PromptRouter | None, experts: Sequence[str]
) -> tuple[tuple[Source, float], ...]:
    """The prior in the form of `Rules.prior`; nothing where none was given."""
    match fields:
        case None:
            return ()
        case FixedRouter():
            return ((given(fields, experts), 1.0),)
        case PromptRouter(temperature=temperature):
            return ((Similar(temperature), 1.0),)
