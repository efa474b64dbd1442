"""Posterior router: experts that explain the text so far count more, token by token.

`pi_k ~ prior_k prod_t p_k(x_t | x_<t)`, Bayes' rule with the expert as the unknown (DEMix,
Gururangan et al. 2021, section 4.1). With `prompt`, as in the paper, it starts from the likelihood
of the prompt; its experts were trained on whole documents. Without, a prior by the experts'
examples routes the first token. With a forgetting factor below one old tokens count less, so the
expert can change within an answer; a floor bounds the weight of every expert from below.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from composer.fields import Flag, Number
from composer.mixtures.routers.router import RouterKind
from composer.mixtures.routers.rule import RuleFields, build_rule


class PosteriorRouter(RuleFields):
    """pi_k ~ prior_k * product of p_k(token) over the tokens so far"""

    kind: Literal["posterior"] = "posterior"
    """Name of the router."""

    forgetting: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Factor by which a token's evidence decays with each further token; 1 forgets nothing."""

    floor: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Minimum weight of each expert; below one over the number of experts that run."""

    prompt: Flag = False
    """Whether the tokens of the prompt count as evidence, as in DEMix. Adapters that were trained
    on answers only, as most are, say nothing of prompts."""


ROUTER = RouterKind(
    title="Posterior router",
    citation='Gururangan et al. 2021, "DEMix Layers: Disentangling Domains for Modular Language '
    'Modeling", arXiv:2108.05036',
    fields=PosteriorRouter,
    build=build_rule,
    example={"prior": "prompt", "forgetting": 0.9},
)
