"""Vote: several routers, each with a share.

`pi = sum_r share_r pi_r`. As in Mixture of Routers (Zhang et al. 2025, section 3), where a main
router weighs several sub-routers; here the request states the weights of the main router.

The engine evaluates each rule once per request, from one prior. So all routers of a vote start from
the same prior, and two that follow the same rule must agree on its parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from composer.engine_plan import MixtureParameters
from composer.errors import UnsupportedError
from composer.fields import Fields, Number
from composer.mixtures.routers.fixed import fixed_prior
from composer.mixtures.routers.router import OneOf, RouterKind
from composer.mixtures.routers.rule import default_prior
from composer.mixtures.routers.weighing import WEIGHING
from composer.mixtures.specs import (
    FixedPrior,
    Prior,
    PriorTerm,
    WeightedMixtureSpec,
    normalized,
)
from composer.validation import shown

_VOTER = OneOf(WEIGHING)

Votes: TypeAlias = Sequence[tuple[WeightedMixtureSpec, float]]
"""The routers of a vote, each with its share; the shares sum to one."""


class Voter(Fields):
    """A router and its share of the vote."""

    router: Annotated[Fields, _VOTER]
    """Any router that weighs all experts."""

    weight: Annotated[Number, Field(gt=0)] = 1.0
    """Share, relative to the other voters."""


class VoteRouter(Fields):
    """pi = sum_r weight_r*pi_r / sum_r weight_r"""

    kind: Literal["vote"] = "vote"
    """Name of the router."""

    routers: Annotated[list[Voter], Field(min_length=1, max_length=16)]
    """The voters."""


def build(fields: VoteRouter, experts: Sequence[str]) -> WeightedMixtureSpec:
    shares = normalized({n: voter.weight for n, voter in enumerate(fields.routers)})
    specs = [_VOTER.build(voter.router, experts) for voter in fields.routers]
    return merged(list(zip(specs, shares.values(), strict=True)), experts)


def merged(votes: Votes, experts: Sequence[str]) -> WeightedMixtureSpec:
    """Return a single spec for all voters.

    Raises:
        UnsupportedError: the engine cannot evaluate them together.
    """
    rules = MixtureParameters.RULES
    parameters: dict[str, Any] = normalized(
        {
            rule: math.fsum(getattr(spec.parameters, rule) * share for spec, share in votes)
            for rule in ("fixed", *rules)
        }
    )
    for rule, names in rules.items():
        parameters |= _agreed(rule, names, votes)
    evaluated = MixtureParameters(**parameters)
    return WeightedMixtureSpec(_prior(votes, experts) or default_prior(evaluated), evaluated)


def _prior(votes: Votes, experts: Sequence[str]) -> Prior:
    """Return the prior that all voters start from; empty if none of them states one."""
    terms = [
        (term, share * weight)
        for spec, share in votes
        if spec.parameters.fixed
        for term, weight in spec.prior
    ]
    priors = {spec.prior for spec, _ in votes if not spec.parameters.fixed and spec.prior}
    if terms:
        priors.add(_combined(terms, experts))
    if len(priors) > 1:
        raise UnsupportedError(
            "the routers of the vote start from different priors, and one request has one. Leave "
            f"'prior' out of its {' and '.join(MixtureParameters.RULES)} routers: they then start "
            "from the combination of its fixed and prompt routers."
        )
    return priors.pop() if priors else ()


def _combined(terms: Sequence[tuple[PriorTerm, float]], experts: Sequence[str]) -> Prior:
    """Merge equal terms, and all `FixedPrior` into their weighted mean."""
    fixed = [(term, share) for term, share in terms if isinstance(term, FixedPrior)]
    shares: dict[PriorTerm, float] = {}
    if fixed:
        shares[_mean(fixed, experts)] = math.fsum(share for _, share in fixed)
    prompts = {term for term, _ in terms if not isinstance(term, FixedPrior)}
    for prompt in sorted(prompts, key=lambda term: term.temperature):
        shares[prompt] = math.fsum(share for term, share in terms if term == prompt)
    return tuple(normalized(shares).items())


def _mean(terms: Sequence[tuple[FixedPrior, float]], experts: Sequence[str]) -> FixedPrior:
    if len({term for term, _ in terms}) == 1:
        return terms[0][0]
    return fixed_prior(WeightedMixtureSpec(tuple(terms)).resolved(experts, {}))


def _agreed(rule: str, names: Sequence[str], votes: Votes) -> dict[str, Any]:
    """Return the parameters of a rule, on which the voters that follow it must agree."""
    agreed: dict[str, Any] = {}
    for name in names:
        values = {
            getattr(spec.parameters, name) for spec, _ in votes if getattr(spec.parameters, rule)
        }
        if len(values) > 1:
            raise UnsupportedError(
                f"the {rule} routers of the vote have different values of '{name}' "
                f"({', '.join(map(shown, sorted(values)))}), and one request has one of each rule. "
                "Leave one of them."
            )
        if values:
            agreed[name] = values.pop()
    return agreed


ROUTER = RouterKind(
    title="Vote of routers",
    citation='After Zhang et al. 2025, "Mixture of Routers", arXiv:2503.23362',
    fields=VoteRouter,
    build=build,
    example={"routers": [{"router": "prompt"}, {"router": "posterior", "weight": 3}]},
)
