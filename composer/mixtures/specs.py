"""How a plan mixes its members instead of adding them: routers in normal form, as values.

A router gives the experts of a mixture their weights `pi`. Most of them are `WeightedMixtureSpec`,
which run a row for every expert: `p = sum_k pi_k softmax(l_k)`. `GateSpec` and `HandoverSpec` run
one row and choose the expert that computes each next token.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias, TypeVar

_K = TypeVar("_K")


@dataclass(frozen=True, slots=True)
class FixedPrior:
    """A prior that the request gives: weights by expert, sorted by name, that sum to one.

    Empty means that all experts weigh the same, whichever there are.
    """

    weights: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class PromptPrior:
    """A prior by how much the prompt looks like each expert's examples (c-BTM)."""

    temperature: float = 0.1


PriorTerm: TypeAlias = FixedPrior | PromptPrior


@dataclass(frozen=True, slots=True)
class WeightedMixtureSpec:
    """Routers that weigh all experts, as the engine evaluates them: see
    `composer.engine_plan.Mixture` for the formulas of `fixed` to `temperature`.

    `prior` holds what the prior is made of, with shares that sum to one: at most one `FixedPrior`,
    which stands first, then `PromptPrior` by temperature. What does not count has its default: a
    rule without a share leaves its parameters alone, so equal routers are equal values.
    """

    prior: tuple[tuple[PriorTerm, float], ...] = ((FixedPrior(), 1.0),)
    fixed: float = 1.0
    posterior: float = 0.0
    confidence: float = 0.0
    forgetting: float = 1.0
    floor: float = 0.0
    prompt: bool = True
    temperature: float = 1.0

    @property
    def reads_text(self) -> bool:
        """Whether the prior depends on the text of the request."""
        return any(isinstance(source, PromptPrior) for source, _ in self.prior)

    def resolved(
        self, experts: Collection[str], similar: Mapping[float, Mapping[str, float]]
    ) -> dict[str, float]:
        """The prior of each expert, which sums to one.

        Args:
            experts: their names.
            similar: what a `PromptPrior` of this temperature says, by expert.
        """
        parts: dict[str, list[float]] = {name: [] for name in experts}
        for source, share in self.prior:
            weights = (
                similar[source.temperature]
                if isinstance(source, PromptPrior)
                else dict(source.weights) or dict.fromkeys(parts, 1 / len(parts))
            )
            for name, terms in parts.items():
                terms.append(share * weights[name])
        return normalized({name: math.fsum(terms) for name, terms in parts.items()})

    def to_dict(self) -> dict[str, Any]:
        """The router as requests write it; reading it gives the same rules up to rounding."""
        sources = [(_described(source), share * self.fixed) for source, share in self.prior]
        if self.fixed == 1 and len(sources) == 1:
            return sources[0][0]
        own = None if self.fixed > 0 else sources[0][0]
        posterior = {
            "kind": "posterior",
            "forgetting": self.forgetting,
            "floor": self.floor,
            "prompt": self.prompt,
            "prior": own,
        }
        confidence = {"kind": "confidence", "temperature": self.temperature, "prior": own}
        votes = [*sources, (posterior, self.posterior), (confidence, self.confidence)]
        votes = [(router, round(weight, 12)) for router, weight in votes if weight > 0]
        if len(votes) == 1:
            return votes[0][0]
        return {
            "kind": "vote",
            "routers": [{"router": router, "weight": weight} for router, weight in votes],
        }


class Missing(StrEnum):
    """What becomes of a request whose gate knows experts that are not served any more."""

    ERROR = "error"
    """It is refused."""

    REMAINING = "remaining"
    """The gate chooses among the experts that are left, and the response says so."""


@dataclass(frozen=True, slots=True)
class GateSpec:
    """A trained classifier on the last hidden state chooses the expert of every next token.

    `experts` in the order of the request, where the first may have a say in the start.
    """

    experts: tuple[str, ...]
    name: str | None = None  # None: the only gate that the server has
    start: str | None = None  # the expert that reads the prompt; None: left to the server
    stickiness: float = 0.0
    missing: Missing = Missing.ERROR

    def to_dict(self) -> dict[str, Any]:
        """The router as requests write it."""
        return {
            "kind": "gate",
            "name": self.name,
            "start": self.start,
            "stickiness": self.stickiness,
            "missing": self.missing.value,
        }


@dataclass(frozen=True, slots=True)
class HandoverSpec:
    """The experts take over one after the other: the next one at every token in `at`.

    `experts` in the order of the request, where a name may occur several times. Texts in `at` stand
    for one token each; the server, which knows the tokenizer, sees to that.
    """

    experts: tuple[str, ...]
    at: tuple[str | int, ...]

    def to_dict(self) -> dict[str, Any]:
        """The router as requests write it."""
        return {"kind": "sequence", "at": list(self.at)}


Router: TypeAlias = WeightedMixtureSpec | GateSpec | HandoverSpec


@dataclass(frozen=True, slots=True)
class MixturePlan:
    """How the members of a plan are mixed.

    `routed`: the prior is settled and only the best `top_k` members are left
    (`composer.mixtures.route.route`).
    """

    router: Router = field(default_factory=WeightedMixtureSpec)
    top_k: int | None = None
    explain: bool = False
    routed: bool = False

    @property
    def switches(self) -> bool:
        """Whether one row changes its adapter, in place of one row for each expert."""
        return not isinstance(self.router, WeightedMixtureSpec)

    @property
    def reads_text(self) -> bool:
        """Whether `route` needs the text of the request, and a prompt router."""
        return isinstance(self.router, WeightedMixtureSpec) and self.router.reads_text

    def to_dict(self) -> dict[str, Any]:
        """The description in responses, JSON-able."""
        return {"router": self.router.to_dict(), "top_k": self.top_k}


def normalized(weights: Mapping[_K, float]) -> dict[_K, float]:
    """Weights that sum to one. They are not negative, and one of them is positive."""
    # The largest first: neither a sum that overflows nor a division by a denormal number.
    largest = max(weights.values())
    scaled = {key: weight / largest for key, weight in weights.items()}
    total = math.fsum(scaled.values())
    return {key: weight / total for key, weight in scaled.items()}


def _described(source: PriorTerm) -> dict[str, Any]:
    if isinstance(source, PromptPrior):
        return {"kind": "prompt", "temperature": source.temperature}
    return {"kind": "fixed", "weights": dict(source.weights) or None}
