"""How a plan mixes its members instead of adding them: routers in normal form, as values.

A router gives the experts of a mixture their weights `pi`. Most routers are `WeightedMixtureSpec`,
which computes one row per expert: `p = sum_k pi_k softmax(l_k)`. `GateSpec` and `HandoverSpec`
compute a single row and choose the expert for each next token.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeAlias, TypeVar

from composer.engine_plan import MixtureParameters

_K = TypeVar("_K")

PROMPT_TEMPERATURE = 0.1
"""Default temperature of the prompt router (c-BTM, Gururangan et al. 2023, section 3)."""


@dataclass(frozen=True, slots=True)
class FixedPrior:
    """A prior that the request states: weights by expert, sorted by name, that sum to one.

    Empty means equal weights, whichever experts there are.
    """

    weights: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class PromptPrior:
    """A prior by the similarity of the prompt to each expert's examples (c-BTM).

    `optional`: equal weights, if an expert has no examples or there are several prompts.
    """

    temperature: float = PROMPT_TEMPERATURE
    optional: bool = False


PriorTerm: TypeAlias = FixedPrior | PromptPrior

Prior: TypeAlias = tuple[tuple[PriorTerm, float], ...]
"""Terms with shares that sum to one: at most one `FixedPrior`, which comes first, then
`PromptPrior` by temperature. Empty where a router leaves its prior to the caller."""

UNIFORM: Prior = ((FixedPrior(), 1.0),)
BY_EXAMPLES: Prior = ((PromptPrior(0.02, optional=True), 1.0),)
"""The default of routers that need a prior to be right. It is sharper than the prompt router: of
adapters with similar examples, one whose first tokens are likely took over the prompts of another
(docs/routing.md has the measurement)."""


@dataclass(frozen=True, slots=True)
class WeightedMixtureSpec:
    """A router that weighs all experts: the prior, and the parameters that the engine evaluates.

    Parameters of a rule without a share keep their defaults, so equal routers are equal values.
    """

    prior: Prior = UNIFORM
    parameters: MixtureParameters = field(default_factory=MixtureParameters)

    @property
    def reads_text(self) -> bool:
        """Whether the prior may depend on the text of the request."""
        return any(isinstance(term, PromptPrior) for term, _ in self.prior)

    @property
    def needs_examples(self) -> bool:
        """Whether every expert must have examples."""
        return any(isinstance(term, PromptPrior) and not term.optional for term, _ in self.prior)

    def resolved(
        self, experts: Collection[str], similarities: Mapping[float, Mapping[str, float]]
    ) -> dict[str, float]:
        """Return the prior by expert, which sums to one.

        Args:
            experts: their names.
            similarities: weights by expert for the temperature of each `PromptPrior`.
        """
        if len(self.prior) == 1 and isinstance(term := self.prior[0][0], PromptPrior):
            return dict(similarities[term.temperature])  # fast, for a thousand experts
        terms: dict[str, list[float]] = {name: [] for name in experts}
        for term, share in self.prior:
            weights = (
                similarities[term.temperature]
                if isinstance(term, PromptPrior)
                else dict(term.weights) or dict.fromkeys(terms, 1 / len(terms))
            )
            for name, products in terms.items():
                products.append(share * weights[name])
        return normalized({name: math.fsum(products) for name, products in terms.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return the router as requests write it; parsing it gives an equal spec up to rounding."""
        fixed = self.parameters.fixed
        priors = [(_described(term), share * fixed) for term, share in self.prior]
        if fixed == 1 and len(priors) == 1:
            return dict(priors[0][0] or {})
        prior = None if fixed > 0 else priors[0][0]
        votes = [*priors]
        for rule, names in MixtureParameters.RULES.items():
            parameters = {name: getattr(self.parameters, name) for name in names}
            router = {"kind": rule, **parameters, "prior": prior}
            votes.append((router, getattr(self.parameters, rule)))
        votes = [(router, round(weight, 12)) for router, weight in votes if weight > 0]
        if len(votes) == 1:
            return dict(votes[0][0] or {})
        return {
            "kind": "vote",
            "routers": [{"router": router, "weight": weight} for router, weight in votes],
        }


class Missing(StrEnum):
    """What to do with a request whose gate was trained for experts that are no longer served."""

    ERROR = "error"
    """Refuse it."""

    REMAINING = "remaining"
    """Let the gate choose among the remaining experts, and say so in the response."""


@dataclass(frozen=True, slots=True)
class GateSpec:
    """A trained classifier on the last hidden state chooses the expert of each next token.

    `experts` are in the order of the request, whose first expert may be the start.
    """

    experts: tuple[str, ...]
    name: str | None = None  # None: the server's only gate
    start: str | None = None  # expert that reads the prompt; None: the server chooses
    stickiness: float = 0.0
    missing: Missing = Missing.ERROR

    def to_dict(self) -> dict[str, Any]:
        """Return the router as requests write it."""
        return {
            "kind": "gate",
            "name": self.name,
            "start": self.start,
            "stickiness": self.stickiness,
            "missing": self.missing.value,
        }


@dataclass(frozen=True, slots=True)
class HandoverSpec:
    """The experts take turns: each token of the answer listed in `at` hands over to the next one.

    `experts` are in the order of the request and may repeat. A text in `at` stands for one token;
    the server, which has the tokenizer, checks that.
    """

    experts: tuple[str, ...]
    at: tuple[str | int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the router as requests write it."""
        return {"kind": "sequence", "at": list(self.at)}


Router: TypeAlias = WeightedMixtureSpec | GateSpec | HandoverSpec


@dataclass(frozen=True, slots=True)
class MixturePlan:
    """How the members of a plan are mixed.

    `none`: the base answers instead, if the prompt is less familiar than that to every expert that
    would run; None to never ask. "default" is the threshold of what compares the prompt with the
    examples, by which `composer.mixtures.route.route` replaces it.

    `routed`: the prior is resolved and only the best `top_k` members remain
    (`composer.mixtures.route.route`), or the base alone. `familiarity`: then, if `none` asks for
    it, how familiar the prompt is to those experts.
    """

    router: Router = field(default_factory=WeightedMixtureSpec)
    top_k: int | None = None
    explain: bool = False
    none: float | Literal["default"] | None = None
    routed: bool = False
    familiarity: tuple[tuple[str, float], ...] = ()

    @property
    def switches(self) -> bool:
        """Whether a single row changes its adapter, instead of one row per expert."""
        return not isinstance(self.router, WeightedMixtureSpec)

    @property
    def reads_text(self) -> bool:
        """Whether `route` needs the text of the request, and a prompt router."""
        return isinstance(self.router, WeightedMixtureSpec) and self.router.reads_text

    @property
    def needs_examples(self) -> bool:
        """Whether `route` refuses experts without examples."""
        return isinstance(self.router, WeightedMixtureSpec) and self.router.needs_examples

    def to_dict(self) -> dict[str, Any]:
        """Return the description in responses, JSON-able."""
        none = True if self.none == "default" else self.none or False
        return {"router": self.router.to_dict(), "top_k": self.top_k, "none": none}


def normalized(weights: Mapping[_K, float]) -> dict[_K, float]:
    """Scale weights so that they sum to one. None is negative, and at least one is positive."""
    # Divide by the largest first: neither does the sum overflow nor is a divisor denormal.
    largest = max(weights.values())
    scaled = {key: weight / largest for key, weight in weights.items()}
    total = math.fsum(scaled.values())
    return {key: weight / total for key, weight in scaled.items()}


def _described(term: PriorTerm) -> dict[str, Any] | None:
    if isinstance(term, PromptPrior):
        if term.optional:
            return None
        return {"kind": "prompt", "temperature": term.temperature}
    return {"kind": "fixed", "weights": dict(term.weights) or None}
