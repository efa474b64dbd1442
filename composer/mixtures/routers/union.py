"""The field `router` of a mixture: any of the routers, and its normal form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, TypeAlias

from composer.fields import Fields
from composer.mixtures.routers import ROUTERS
from composer.mixtures.routers.router import OneOf
from composer.mixtures.routers.rule import default_prior
from composer.mixtures.specs import Router, WeightedMixtureSpec

_ANY = OneOf(ROUTERS)

AnyRouter: TypeAlias = Annotated[Fields, _ANY]


def router_of(fields: Fields, experts: Sequence[str]) -> Router:
    """Return the router in normal form.

    Raises:
        CompositionError: it does not match these experts.
    """
    router = _ANY.build(fields, experts)
    if isinstance(router, WeightedMixtureSpec) and not router.prior:
        return replace(router, prior=default_prior(router.parameters))
    return router
