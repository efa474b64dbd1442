"""At admission: a mixture's prior is settled by the prompt, and only its best experts stay."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Protocol

from composer import engine_plan
from composer.errors import UnsupportedError, quoted
from composer.mixtures.specs import PromptPrior, WeightedMixtureSpec, normalized
from composer.plan import NEGLIGIBLE, Plan


class Weigher(Protocol):
    """What weighs experts by a text; `composer.mixtures.tfidf.PromptRouter` does."""

    @property
    def names(self) -> Collection[str]:
        """The experts that have examples."""

    def weights(
        self, text: str, temperature: float, names: Collection[str] | None = None
    ) -> dict[str, float]:
        """Weights that sum to one, of all experts or of these."""


def route(plan: Plan, text: str, weigher: Weigher | None) -> Plan:
    """The plan for one request: its weights are the prior that the engine starts from.

    Of a mixture with `top_k` only so many members are left, those with the largest prior; of equal
    ones the first. Experts whose prior is 0 are gone, too. Other plans come back as they are.

    Args:
        plan: in normal form.
        text: what the request says; only read where `plan.mixture.reads_text`.
        weigher: knows the examples of the experts; None where none has any.

    Raises:
        UnsupportedError: the prior depends on the examples of an expert that has none.
    """
    mixture = plan.mixture
    if mixture is None or mixture.routed:
        return plan
    routed = replace(mixture, routed=True)
    if not isinstance(mixture.router, WeightedMixtureSpec):
        return replace(plan, mixture=routed)
    prior = _prior(mixture.router, [member.model for member in plan.members], text, weigher)
    weights = [prior[member.model] for member in plan.members]
    best = sorted(range(len(weights)), key=lambda k: -weights[k])[: mixture.top_k]
    kept = normalized({k: weights[k] for k in sorted(best) if weights[k] >= NEGLIGIBLE})
    return replace(
        plan,
        members=tuple(plan.members[k] for k in kept),
        weights=tuple(kept.values()),
        mixture=routed,
    )


def engine_mixture(plan: Plan) -> engine_plan.MixtureParameters:
    """How the engine mixes the rows of a routed plan, whose weights are their prior.

    Raises:
        ValueError: the plan has not been routed, or is no mixture of rows.
    """
    if plan.mixture is None or not isinstance(plan.mixture.router, WeightedMixtureSpec):
        raise ValueError(f"{plan.formula()} is no mixture of rows")
    if not plan.mixture.routed:
        raise ValueError(f"{plan.formula()} has not been routed")
    rules = plan.mixture.router
    return engine_plan.MixtureParameters(
        fixed=rules.fixed,
        posterior=rules.posterior,
        confidence=rules.confidence,
        forgetting=rules.forgetting,
        floor=rules.floor,
        prompt=rules.prompt,
        temperature=rules.temperature,
    )


def _prior(
    rules: WeightedMixtureSpec, experts: Collection[str], text: str, weigher: Weigher | None
) -> dict[str, float]:
    temperatures = [s.temperature for s, _ in rules.prior if isinstance(s, PromptPrior)]
    if not temperatures:
        return rules.resolved(experts, {})
    known = weigher.names if weigher is not None else ()
    for name in experts:
        if weigher is None or name not in known:
            raise UnsupportedError(
                f"the prompt router knows no examples of {quoted(name)}. Register the adapter with "
                "'examples' or a 'description', leave it out of the experts, or use another router."
            )
    assert weigher is not None  # there is an expert, and it is known
    return rules.resolved(experts, {t: weigher.weights(text, t, experts) for t in temperatures})
