"""Fixed weights: the request says how much each expert counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator

from composer.errors import CompositionSchemaError, listing, quoted
from composer.fields import Fields, ModelName, Number
from composer.mixtures.routers.router import RouterKind
from composer.mixtures.specs import FixedPrior, WeightedMixtureSpec, normalized

Weight = Annotated[Number, Field(ge=0)]

SAME = 1e-12
"""Weights that differ by less are the same."""


class FixedRouter(Fields):
    """pi_k = weight_k / sum of all weights"""

    kind: Literal["fixed"] = "fixed"
    """Name of the router."""

    weights: dict[ModelName, Weight] | None = None
    """Weight of every expert by its name; they need not sum to one. Absent: all the same."""

    @field_validator("weights")
    @classmethod
    def _some_weight(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        if weights is not None and not any(weights.values()):
            raise ValueError(
                "the weights sum to 0, so no expert is left; give one of them a number above 0"
            )
        return weights


def build(fields: FixedRouter, experts: Sequence[str]) -> WeightedMixtureSpec:
    return WeightedMixtureSpec(prior=((given(fields, experts), 1.0),))


def given(fields: FixedRouter, experts: Sequence[str]) -> FixedPrior:
    """The weights in normal form.

    Raises:
        CompositionSchemaError: they are not the weights of these experts.
    """
    if fields.weights is None:
        return FixedPrior()
    strangers = fields.weights.keys() - set(experts)
    if strangers:
        raise CompositionSchemaError(
            f"the router gives {quoted(min(strangers))} a weight, which is not one of the experts "
            f"{listing(experts)}. Remove it, or add it to 'experts'."
        )
    left_out = next((name for name in experts if name not in fields.weights), None)
    if left_out is not None:
        raise CompositionSchemaError(
            f"the router's weights leave out the expert {quoted(left_out)}. Give a weight to each "
            f"of {listing(experts)}; 0 leaves one out."
        )
    return uniform_or(normalized(fields.weights))


def uniform_or(weights: dict[str, float]) -> FixedPrior:
    """Weights of all experts that sum to one; `FixedPrior()` where they are all the same.

    Up to rounding: weights that a response shows, asked for again, may differ in their last bit.
    """
    if max(weights.values()) - min(weights.values()) < SAME:
        return FixedPrior()
    return FixedPrior(tuple(sorted(weights.items())))


ROUTER = RouterKind(
    title="Fixed weights",
    citation="ours; the mixture as the request gives it",
    fields=FixedRouter,
    build=build,
    example={"weights": {"arithmetic": 1, "chat": 3}},
)
