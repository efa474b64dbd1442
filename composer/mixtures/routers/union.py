"""The field `router` of a mixture: any of the routers, and what it is in normal form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, TypeAlias

from composer.fields import Fields
from composer.mixtures.routers import ROUTERS
from composer.mixtures.routers.confidence import ConfidenceRouter
from composer.mixtures.routers.fixed import FixedRouter
from composer.mixtures.routers.gate import GateRouter
from composer.mixtures.routers.posterior import PosteriorRouter
from composer.mixtures.routers.prompt import PromptRouter
from composer.mixtures.routers.router import BY_KIND, by_kind
from composer.mixtures.routers.sequence import SequenceRouter
from composer.mixtures.routers.vote import VoteRouter
from composer.mixtures.specs import Router, WeightedMixtureSpec

# Spelled out, because types must be known without running the program; a test compares to ROUTERS.
AnyRouter: TypeAlias = Annotated[
    FixedRouter
    | PromptRouter
    | PosteriorRouter
    | ConfidenceRouter
    | VoteRouter
    | GateRouter
    | SequenceRouter,
    BY_KIND,
    by_kind("fixed", "prompt", "posterior", "confidence", "vote", "gate", "sequence"),
]


def router_of(fields: Fields, experts: Sequence[str]) -> Router:
    """The router in normal form.

    Raises:
        CompositionError: it does not go with these experts.
    """
    kind = next(kind for kind in ROUTERS if isinstance(fields, kind.fields))
    router = kind.build(fields, experts)
    if isinstance(router, WeightedMixtureSpec) and not router.prior:
        return replace(router, prior=WeightedMixtureSpec().prior)
    return router
