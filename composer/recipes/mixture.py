"""Mixture of experts: the probabilities of several models, weighed by a router.

`p = sum_k pi_k softmax(l_k)`, as DEMix (Gururangan et al. 2021, section 4.1) and c-BTM (2023) mix
whole language models. With `gate` and `sequence` a single row switches between the experts, as in
MeteoRA.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from composer.errors import CompositionSchemaError, quoted
from composer.fields import MAX_EXPERTS, Fields, Flag, ModelName, Number, constant
from composer.formula import format_number
from composer.mixtures.routers.fixed import FixedRouter, fixed_prior
from composer.mixtures.routers.union import AnyRouter, router_of
from composer.mixtures.specs import (
    BY_EXAMPLES,
    UNIFORM,
    HandoverSpec,
    MixturePlan,
    Router,
    WeightedMixtureSpec,
    normalized,
)
from composer.plan import NEGLIGIBLE, Member
from composer.recipes.recipe import Filters, Recipe, Terms
from composer.validation import shown


class Mixture(Fields):
    """sum_k pi_k*softmax(expert_k), pi from the router"""

    recipe: Literal["mixture"]
    """Name of the method."""

    experts: Annotated[list[ModelName], Field(min_length=1, max_length=MAX_EXPERTS)]
    """The models to mix."""

    router: AnyRouter = FixedRouter()
    """The router that weighs the experts, or only its kind, such as `"posterior"`."""

    top_k: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Number of experts that run: those with the largest weights before the answer begins."""

    explain: Flag = False
    """Whether the response includes the weights of every token."""

    none: Flag | Annotated[Number, Field(gt=0, le=1)] = False
    """Whether the base answers instead, if the prompt is like no expert's examples; needs a router
    that compares them. A number is the threshold: 1 demands as much similarity as the examples have
    to each other; true stands for the server's default, 0.5, or 0.6 with a prompt encoder."""


def build(fields: Mixture) -> tuple[Terms, Filters]:
    """Return the experts with their prior, uniform if it depends on the prompt."""
    _, prior = _read(fields)
    return tuple((Member(name), weight) for name, weight in prior.items()), ()


def mixture(fields: Mixture) -> MixturePlan:
    router, _ = _read(fields)
    if fields.none is True:
        return MixturePlan(router, fields.top_k, fields.explain, "default")
    return MixturePlan(router, fields.top_k, fields.explain, fields.none or None)


def _read(fields: Mixture) -> tuple[Router, dict[str, float]]:
    """Return the router in normal form, and the prior of the experts with a weight.

    Raises:
        CompositionError: the router does not match the experts, or `top_k` does not match either.
    """
    experts = fields.experts
    router = router_of(fields.router, experts)
    repeated = next((name for name, count in Counter(experts).items() if count > 1), None)
    if repeated is not None and not isinstance(router, HandoverSpec):
        raise CompositionSchemaError(
            f"the expert {quoted(repeated)} is listed twice. List every expert once; the router "
            "determines its weight."
        )
    _check_none(fields, router)
    prior = dict.fromkeys(experts, 1 / len(experts))
    if not isinstance(router, WeightedMixtureSpec):
        if fields.top_k is not None:
            kind = constant(type(fields.router), "kind")
            raise CompositionSchemaError(
                f"top_k is {fields.top_k}, but the {kind} router runs one row and weighs nothing. "
                "Leave top_k out."
            )
        return router, prior
    _check_top_k(fields.top_k, router, len(experts))
    if not router.reads_text:
        prior = router.resolved(experts, {})
        kept = {name: weight for name, weight in prior.items() if weight >= NEGLIGIBLE}
        if len(kept) < len(prior):
            prior = normalized(kept)
            router = replace(router, prior=((fixed_prior(prior), 1.0),))
    _check_floor(router, min(len(prior), fields.top_k or len(prior)))
    return router, prior


def _check_none(fields: Mixture, router: Router) -> None:
    if fields.none and not (isinstance(router, WeightedMixtureSpec) and router.needs_examples):
        raise CompositionSchemaError(
            f"none is {shown(fields.none)}, but the {constant(type(fields.router), 'kind')} router "
            'does not compare the prompt with examples. Leave none out, use the router "prompt", '
            'or give the router the prior "prompt".'
        )


def _check_top_k(top_k: int | None, router: WeightedMixtureSpec, count: int) -> None:
    if top_k is not None and top_k > count:
        raise CompositionSchemaError(
            f"top_k is {top_k}, and the mixture has {count} "
            f"{'expert' if count == 1 else 'experts'}. Give at most {count}, or leave it out.",
        )
    if top_k is not None and top_k < count and router.prior in (UNIFORM, BY_EXAMPLES):
        raise CompositionSchemaError(
            f"top_k is {top_k} of {count} experts, but before the answer begins they all weigh the "
            'same. Use the router "prompt", give weights, or give the router a prior, e.g. '
            '"prior": "prompt".'
        )


def _check_floor(router: WeightedMixtureSpec, count: int) -> None:
    floor = router.parameters.floor
    if floor * count >= 1:
        raise CompositionSchemaError(
            f"the floor is {format_number(floor)}, which {count} experts cannot all have. "
            f"Give a number below 1/{count}."
        )


RECIPE = Recipe(
    title="Mixture of experts",
    citation='Gururangan et al. 2021, "DEMix Layers: Disentangling Domains for Modular Language '
    'Modeling", arXiv:2108.05036; Gururangan et al. 2023, "Scaling Expert Language Models with '
    'Unsupervised Domain Discovery", arXiv:2303.14177',
    fields=Mixture,
    build=build,
    example={"experts": ["arithmetic", "chat"], "router": "posterior"},
    mixture=mixture,
)
