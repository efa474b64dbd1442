"""Fixed weights: the request states how much each expert counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator

from composer.errors import CompositionSchemaError, listing, quoted
from composer.fields import Fields, ModelName, Number
from composer.mixtures.routers.router import RouterKind
from composer.mixtures.specs import FixedPrior, WeightedMixtureSpec, normalized

EQUAL_WITHIN = 1e-12
"""Weights that differ by less are equal."""


class FixedRouter(Fields):
    """pi_k = weight_k / sum of all weights"""

    kind: Literal["fixed"] = "fixed"
    """Name of the router."""

    weights: dict[ModelName, Annotated[Number, Field(ge=0)]] | None = None
    """Weight of every expert by its name; they need not sum to one. Equal weights if absent."""

    @field_validator("weights")
    @classmethod
    def _some_weight(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        if weights is not None and not any(weights.values()):
            raise ValueError(
                "the weights sum to 0, so no expert is left; give one of them a number above 0"
            )
        return weights


def build(fields: FixedRouter, experts: Sequence[str]) -> WeightedMixtureSpec:
    return WeightedMixtureSpec(((_prior(fields, experts), 1.0),))


def _prior(fields: FixedRouter, experts: Sequence[str]) -> FixedPrior:
    if fields.weights is None:
        return FixedPrior()
    unknown = fields.weights.keys() - set(experts)
    if unknown:
        raise CompositionSchemaError(
            f"the router gives {quoted(min(unknown))} a weight, which is not one of the experts "
            f"{listing(experts)}. Remove it, or add it to 'experts'."
        )
    missing = next((name for name in experts if name not in fields.weights), None)
    if missing is not None:
        raise CompositionSchemaError(
            f"the router's weights leave out the expert {quoted(missing)}. Give a weight to each "
            f"of {listing(experts)}; 0 leaves one out."
        )
    return fixed_prior(normalized(fields.weights))


def fixed_prior(weights: dict[str, float]) -> FixedPrior:
    """Return weights that sum to one in normal form: `FixedPrior()` if all are equal.

    Tolerate rounding, so that weights copied from a response are recognised as equal.
    """
    if max(weights.values()) - min(weights.values()) < EQUAL_WITHIN:
        return FixedPrior()
    return FixedPrior(tuple(sorted(weights.items())))


ROUTER = RouterKind(
    title="Fixed weights",
    citation="ours; the mixture as the request gives it",
    fields=FixedRouter,
    build=build,
    example={"weights": {"arithmetic": 1, "chat": 3}},
)
