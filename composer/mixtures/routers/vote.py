"""Vote: several routers, each with a say.

`pi = sum_r share_r pi_r`. As in Mixture of Routers (Zhang et al. 2025, section 3), where a main
router weighs several sub-routers; here the request gives the weights of the main router.

The engine evaluates one prior, one posterior and one confidence rule per request, so all routers of
a vote start from one prior, and two of a kind must agree on their parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from composer.errors import UnsupportedError
from composer.fields import Fields, Number
from composer.mixtures.routers.fixed import uniform_or
from composer.mixtures.routers.router import OneOf, RouterKind
from composer.mixtures.routers.weighing import WEIGHING
from composer.mixtures.specs import (
    FixedPrior,
    PriorTerm,
    PromptPrior,
    WeightedMixtureSpec,
    normalized,
)
from composer.validation import shown

Prior: TypeAlias = tuple[tuple[PriorTerm, float], ...]


class Voter(Fields):
    """A router and how much its word counts."""

    router: Annotated[Fields, OneOf(WEIGHING)]
    """Any router that weighs all experts."""

    weight: Annotated[Number, Field(gt=0)] = 1.0
    """Relative to the others."""


class VoteRouter(Fields):
    """pi = sum_r weight_r*pi_r / sum_r weight_r"""

    kind: Literal["vote"] = "vote"
    """Name of the router."""

    routers: Annotated[list[Voter], Field(min_length=1, max_length=16)]
    """Who votes."""


def build(fields: VoteRouter, experts: Sequence[str]) -> WeightedMixtureSpec:
    shares = normalized({str(n): voter.weight for n, voter in enumerate(fields.routers)})
    rules = [rules_of(voter.router, experts) for voter in fields.routers]
    return merged(list(zip(rules, shares.values(), strict=True)), experts)


def rules_of(router: Fields, experts: Sequence[str]) -> WeightedMixtureSpec:
    """The rules of one voter; their prior is empty where it did not say one."""
    kind = next(kind for kind in WEIGHING if isinstance(router, kind.fields))
    return kind.build(router, experts)


def merged(
    voters: Sequence[tuple[WeightedMixtureSpec, float]], experts: Sequence[str]
) -> WeightedMixtureSpec:
    """One set of rules for all voters, who have these shares.

    Raises:
        UnsupportedError: the engine cannot evaluate them together.
    """
    shares: dict[str, Any] = normalized(
        {
            rule: math.fsum(getattr(rules, rule) * share for rules, share in voters)
            for rule in ("fixed", "posterior", "confidence")
        }
    )
    return WeightedMixtureSpec(
        prior=_prior(voters, experts),
        **shares,
        **_agreed("posterior", ("forgetting", "floor", "prompt"), voters),
        **_agreed("confidence", ("temperature",), voters),
    )


def _prior(voters: Sequence[tuple[WeightedMixtureSpec, float]], experts: Sequence[str]) -> Prior:
    """The one prior that all voters start from."""
    parts = [
        (source, share * own)
        for rules, share in voters
        if rules.fixed
        for source, own in rules.prior
    ]
    said = {rules.prior for rules, _ in voters if not rules.fixed and rules.prior}
    if parts:
        said.add(_blended(parts, experts))
    if len(said) > 1:
        raise UnsupportedError(
            "the routers of the vote start from different priors, and one request has one. "
            "Leave 'prior' out of its posterior and confidence routers: they then start from what "
            "its fixed and prompt routers say together."
        )
    return said.pop() if said else WeightedMixtureSpec().prior


def _blended(parts: Sequence[tuple[PriorTerm, float]], experts: Sequence[str]) -> Prior:
    """What several terms say together: one `FixedPrior` for all of them, then the others."""
    given = [(source, share) for source, share in parts if isinstance(source, FixedPrior)]
    found: dict[PriorTerm, float] = {}
    if given:
        found[_mean(given, experts)] = math.fsum(share for _, share in given)
    for source in sorted({s for s, _ in parts if isinstance(s, PromptPrior)}, key=_temperature):
        found[source] = math.fsum(share for other, share in parts if other == source)
    return tuple(normalized(found).items())


def _mean(given: Sequence[tuple[FixedPrior, float]], experts: Sequence[str]) -> FixedPrior:
    if len({source for source, _ in given}) == 1:
        return given[0][0]
    shares = WeightedMixtureSpec(tuple(given)).resolved(experts, {})
    return uniform_or(shares)


def _temperature(source: PromptPrior) -> float:
    return source.temperature


def _agreed(
    rule: str, names: Sequence[str], voters: Sequence[tuple[WeightedMixtureSpec, float]]
) -> dict[str, Any]:
    """The parameters of the voters that follow a rule, who must agree on them."""
    found: dict[str, Any] = {}
    for name in names:
        values = {getattr(rules, name) for rules, _ in voters if getattr(rules, rule)}
        if len(values) > 1:
            raise UnsupportedError(
                f"the {rule} routers of the vote have different values of '{name}' "
                f"({', '.join(map(shown, sorted(values)))}), and one request has one of each rule. "
                "Leave one of them."
            )
        if values:
            found[name] = values.pop()
    return found


ROUTER = RouterKind(
    title="Vote of routers",
    citation='After Zhang et al. 2025, "Mixture of Routers", arXiv:2503.23362',
    fields=VoteRouter,
    build=build,
    example={"routers": [{"router": "prompt"}, {"router": "posterior", "weight": 3}]},
)
