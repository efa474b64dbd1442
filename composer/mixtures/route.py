"""At admission: resolve the prior of a mixture by the prompt, and keep only its best experts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Protocol

from composer.engine_plan import MixtureParameters
from composer.errors import UnsupportedError, quoted
from composer.fields import BASE
from composer.mixtures.specs import PromptPrior, WeightedMixtureSpec, normalized
from composer.plan import NEGLIGIBLE, Member, Plan


class Weigher(Protocol):
    """Weighs experts by a text, as `composer.mixtures.similarity.Similarity` does."""

    @property
    def none_below(self) -> float:
        """Default familiarity below which the base answers."""

    @property
    def names(self) -> Collection[str]:
        """The experts that have examples."""

    def weights(
        self, text: str, temperature: float, names: Collection[str] | None = None
    ) -> dict[str, float]:
        """Return weights that sum to one, of all experts or of `names`."""

    def familiarity(self, text: str, names: Collection[str]) -> dict[str, float]:
        """Return how like the examples of each expert a text is; 1 is like one of them."""


def route(plan: Plan, text: str, weigher: Weigher | None) -> Plan:
    """Return the plan for one request, whose weights are the prior that the engine starts from.

    Of a mixture with `top_k` only that many members remain, those with the largest prior, the first
    of equal ones. Experts with a prior of 0 are removed, too. If the mixture has `none` and the
    text is familiar to none of the remaining experts, the base alone takes their place. Other plans
    are returned unchanged.

    Args:
        plan: in normal form.
        text: the text of the request; only read if `plan.mixture.reads_text`.
        weigher: knows the examples of the experts; None if no expert has any.

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
    members = tuple(plan.members[k] for k in kept)
    if mixture.none is not None and weigher is not None:
        familiarity = weigher.familiarity(text, [member.model for member in members])
        none = weigher.none_below if mixture.none == "default" else mixture.none
        routed = replace(routed, none=none, familiarity=tuple(familiarity.items()))
        if max(familiarity.values()) < none:
            return replace(plan, members=(Member(BASE),), weights=(1.0,), mixture=routed)
    return replace(plan, members=members, weights=tuple(kept.values()), mixture=routed)


def engine_mixture(plan: Plan) -> MixtureParameters:
    """Return how the engine mixes the rows of a routed plan, whose weights are their prior.

    Raises:
        ValueError: the plan has not been routed, or is not a mixture of rows.
    """
    if plan.mixture is None or not isinstance(plan.mixture.router, WeightedMixtureSpec):
        raise ValueError(f"{plan.formula()} is not a mixture of rows")
    if not plan.mixture.routed:
        raise ValueError(f"{plan.formula()} has not been routed")
    return plan.mixture.router.parameters


def _prior(
    spec: WeightedMixtureSpec, experts: Collection[str], text: str, weigher: Weigher | None
) -> dict[str, float]:
    temperatures = [term.temperature for term, _ in spec.prior if isinstance(term, PromptPrior)]
    if not temperatures:
        return spec.resolved(experts, {})
    known = weigher.names if weigher is not None else ()
    unknown = next((name for name in experts if name not in known), None)
    if (weigher is None or unknown is not None) and not spec.needs_examples:
        return WeightedMixtureSpec().resolved(experts, {})
    if weigher is None or unknown is not None:
        raise UnsupportedError(
            f"the prompt router knows no examples of {quoted(unknown or '')}. Register the "
            "adapter with 'examples' or a 'description', leave it out of the experts, or use "
            "another router."
        )
    return spec.resolved(experts, {t: weigher.weights(text, t, experts) for t in temperatures})
