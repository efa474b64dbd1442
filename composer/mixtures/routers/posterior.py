"""Posterior router: experts that explain the text so far count more, token by token.

`pi_k ~ prior_k prod_t p_k(x_t | x_<t)`, Bayes' rule with the expert as the unknown (DEMix,
Gururangan et al. 2021, section 4.1). It starts from the prompt's own likelihood, so the first token
is routed already. A forgetting factor below one forgets old tokens, so that the expert can change
within one answer; a floor keeps every expert within reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from composer.fields import Fields, Flag, Number
from composer.mixtures.routers.prior import PriorRouter, sources
from composer.mixtures.routers.router import RouterKind
from composer.mixtures.specs import WeightedMixtureSpec


class PosteriorRouter(Fields):
    """pi_k ~ prior_k * product of p_k(token) over the tokens so far"""

    kind: Literal["posterior"] = "posterior"
    """Name of the router."""

    forgetting: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """What is left of a token's evidence one token later; 1 forgets nothing."""

    floor: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Least weight of every expert; below one over the number of experts that run."""

    prompt: Flag = True
    """Whether the tokens of the prompt count as evidence."""

    prior: PriorRouter | None = None
    """Where it starts: `fixed` or `prompt`; all experts the same if absent. In a vote, what its
    `fixed` and `prompt` routers say together, if there are any."""


def build(fields: PosteriorRouter, experts: Sequence[str]) -> WeightedMixtureSpec:
    return WeightedMixtureSpec(
        prior=sources(fields.prior, experts),
        fixed=0.0,
        posterior=1.0,
        forgetting=fields.forgetting,
        floor=fields.floor,
        prompt=fields.prompt,
    )


ROUTER = RouterKind(
    title="Posterior router",
    citation='Gururangan et al. 2021, "DEMix Layers: Disentangling Domains for Modular Language '
    'Modeling", arXiv:2108.05036',
    fields=PosteriorRouter,
    build=build,
    example={"prior": "prompt", "forgetting": 0.9},
)
