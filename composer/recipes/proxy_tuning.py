"""Proxy-tuning: move the base by the effect of tuning on a proxy.

The difference between a tuned and an untuned small model is added to a large one. Raw logits, no
log-softmax; penalties, temperature and truncation follow (as in `modeling/dexperts.py` of
alisawuffles/proxy-tuning).
"""

from __future__ import annotations

from typing import Literal

from composer.fields import BASE, Fields, ModelName, Number, untuned
from composer.plan import Member
from composer.recipes.recipe import Filters, Recipe, Terms


class ProxyTuning(Fields):
    """base + alpha*(expert - anti_expert)"""

    recipe: Literal["proxy_tuning"]
    """Name of the method."""

    expert: ModelName
    """The tuned proxy."""

    anti_expert: ModelName | None = None
    """The proxy before tuning. If absent, the model that the expert is an adapter of: `small` of
    `small:chat`, and otherwise the base."""

    base: ModelName = BASE
    """The model to steer."""

    alpha: Number = 1.0
    """Strength; negative moves away from the expert."""


def build(fields: ProxyTuning) -> tuple[Terms, Filters]:
    anti_expert = fields.anti_expert or untuned("expert", fields.expert, "anti_expert")
    terms = (
        (Member(fields.base), 1.0),
        (Member(fields.expert), fields.alpha),
        (Member(anti_expert), -fields.alpha),
    )
    return terms, ()


RECIPE = Recipe(
    title="Proxy-tuning",
    citation='Liu et al. 2024, "Tuning Language Models by Proxy", arXiv:2401.08565',
    fields=ProxyTuning,
    build=build,
    example={"base": "chat", "expert": "polite", "anti_expert": "rude", "alpha": 0.8},
)
