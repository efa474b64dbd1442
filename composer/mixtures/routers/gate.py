"""Gate: a trained classifier chooses the expert of each next token, on one row.

The papers put a gate into every layer (MeteoRA, Xu et al. 2024, section 3.2) and train it with the
adapters in place. This gate is one linear classifier on the last hidden state, trained later for
adapters that were trained independently (`composer router train`). One row with one KV cache
changes its adapter over time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from composer.errors import CompositionSchemaError, listing, quoted
from composer.fields import Fields, ModelName, Number
from composer.mixtures.routers.router import RouterKind
from composer.mixtures.specs import GateSpec, Missing


class GateRouter(Fields):
    """the expert with the largest gate_k(hidden state) computes the next token"""

    kind: Literal["gate"] = "gate"
    """Name of the router."""

    name: ModelName | None = None
    """One of the server's gates; its only gate if absent."""

    start: ModelName | None = None
    """The expert that reads the prompt. If absent: the choice of the prompt router if all experts
    have examples, otherwise the first expert."""

    stickiness: Annotated[Number, Field(ge=0)] = 0.0
    """Margin, in logits, by which another expert must exceed the current one to take over."""

    missing: Missing = Missing.ERROR
    """What to do if adapters of the gate are no longer served: `error` refuses the request,
    `remaining` chooses among the others."""


def build(fields: GateRouter, experts: Sequence[str]) -> GateSpec:
    if fields.start is not None and fields.start not in experts:
        raise CompositionSchemaError(
            f"the gate starts with {quoted(fields.start)}, which is not one of the experts "
            f"{listing(experts)}. Name one of them, or leave 'start' out."
        )
    return GateSpec(tuple(experts), fields.name, fields.start, fields.stickiness, fields.missing)


ROUTER = RouterKind(
    title="Learned gate",
    citation='After Xu et al. 2024, "MeteoRA: Multiple-tasks Embedded LoRA for Large Language '
    'Models", arXiv:2405.13053',
    fields=GateRouter,
    build=build,
    example={"stickiness": 4, "missing": "remaining"},
)
