"""Confidence router: experts that are sure of the next token count more.

`pi_k ~ prior_k exp(-H(p_k) / temperature)` at every token, `H` the entropy in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from composer.fields import Fields
from composer.mixtures.routers.prior import PriorRouter, sources
from composer.mixtures.routers.prompt import Temperature
from composer.mixtures.routers.router import RouterKind
from composer.mixtures.specs import WeightedMixtureSpec


class ConfidenceRouter(Fields):
    """pi_k ~ prior_k * exp(-entropy of p_k / temperature)"""

    kind: Literal["confidence"] = "confidence"
    """Name of the router."""

    temperature: Temperature = 1.0
    """How soft, in nats: small picks the surest expert, large leaves the prior as it is."""

    prior: PriorRouter | None = None
    """What it is multiplied with; as for `posterior`."""


def build(fields: ConfidenceRouter, experts: Sequence[str]) -> WeightedMixtureSpec:
    return WeightedMixtureSpec(
        prior=sources(fields.prior, experts),
        fixed=0.0,
        confidence=1.0,
        temperature=fields.temperature,
    )


ROUTER = RouterKind(
    title="Confidence router",
    citation="ours; entropy as the measure of an expert's confidence",
    fields=ConfidenceRouter,
    build=build,
    example={"temperature": 0.5},
)
