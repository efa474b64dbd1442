"""The combined prior of a vote holds the priors of all its routers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from composer.mixtures.routers.vote import merged
from composer.mixtures.specs import FixedPrior, PromptPrior, WeightedMixtureSpec


@dataclass(frozen=True)
class LaterPrior:
    """A kind of prior that a later router adds."""

    temperature: float


def test_a_vote_drops_no_kind_of_prior() -> None:
    later: Any = LaterPrior(1.0)
    voters = [FixedPrior(), PromptPrior(0.5), later, later]
    votes = [(WeightedMixtureSpec(((prior, 1.0),)), 0.25) for prior in voters]
    assert dict(merged(votes, ["chat", "sums"]).prior) == {
        FixedPrior(): 0.25,
        PromptPrior(0.5): 0.25,
        later: 0.5,
    }
