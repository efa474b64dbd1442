"""Fields and normal form of routers that follow one rule of the engine, starting from a prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from composer.engine_plan import MixtureParameters
from composer.fields import Fields
from composer.mixtures.routers import fixed, prompt
from composer.mixtures.routers.router import OneOf
from composer.mixtures.specs import BY_EXAMPLES, UNIFORM, Prior, WeightedMixtureSpec

_PRIOR = OneOf((fixed.ROUTER, prompt.ROUTER))


class RuleFields(Fields):
    """The fields of such a router. A subclass adds `kind`, the name of the rule, and a field for
    each of the rule's parameters (`MixtureParameters.RULES`)."""

    kind: str
    """Name of the router."""

    prior: Annotated[Fields, _PRIOR] | None = None
    """The weights to start from: `fixed` or `prompt`. If absent: in a vote, the combination of its
    `fixed` and `prompt` routers, if it has any; otherwise `prompt` with temperature 0.02 for the
    posterior router if all experts have examples, and equal weights else."""


def default_prior(parameters: MixtureParameters) -> Prior:
    """Return the prior of a request that states none.

    The posterior trusts what an expert says of a text, and an adapter says little of texts that it
    was not trained for, so it needs a prior (docs/routing.md has the measurement).
    """
    return BY_EXAMPLES if parameters.posterior > 0 else UNIFORM


def build_rule(fields: RuleFields, experts: Sequence[str]) -> WeightedMixtureSpec:
    """Return the router; its prior is empty if the request states none.

    Raises:
        CompositionError: the prior does not match these experts.
    """
    prior = () if fields.prior is None else _PRIOR.build(fields.prior, experts).prior
    parameters: dict[str, Any] = {
        name: getattr(fields, name) for name in MixtureParameters.RULES[fields.kind]
    }
    parameters |= {"fixed": 0.0, fields.kind: 1.0}
    return WeightedMixtureSpec(prior, MixtureParameters(**parameters))
