"""Confidence router: experts that are sure of the next token count more.

`pi_k ~ prior_k exp(-H(p_k) / temperature)` at every token, `H` the entropy in nats.
"""

from __future__ import annotations

from typing import Literal

from composer.mixtures.routers.prompt import Temperature
from composer.mixtures.routers.router import RouterKind
from composer.mixtures.routers.rule import RuleFields, build_rule


class ConfidenceRouter(RuleFields):
    """pi_k ~ prior_k * exp(-entropy of p_k / temperature)"""

    kind: Literal["confidence"] = "confidence"
    """Name of the router."""

    temperature: Temperature = 1.0
    """Softness, in nats: a small value picks the surest expert, a large one keeps the prior."""


ROUTER = RouterKind(
    title="Confidence router",
    citation="ours; entropy as the measure of an expert's confidence",
    fields=ConfidenceRouter,
    build=build_rule,
    example={"temperature": 0.5},
)
