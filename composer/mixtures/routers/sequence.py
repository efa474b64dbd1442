"""Sequence: the experts take turns, changing at tokens that the request lists.

One row with one KV cache, as with a gate, but by a rule: for answers with a known structure.
"""

from __future__ import annotations

from collections.abc import Sequence as Names
from typing import Annotated, Literal

from pydantic import Field

from composer.errors import CompositionSchemaError
from composer.fields import Fields, TokenId
from composer.mixtures.routers.router import RouterKind
from composer.mixtures.specs import HandoverSpec

Text = Annotated[str, Field(min_length=1)]
Several = Annotated[list[Text | TokenId], Field(min_length=1, max_length=64)]


class SequenceRouter(Fields):
    """each token of the answer that is listed in at hands over to the next expert"""

    kind: Literal["sequence"] = "sequence"
    """Name of the router."""

    at: Text | TokenId | Several
    """The tokens that hand over: texts of one token each, or token ids."""


MAX_TURNS = 256


def build(fields: SequenceRouter, experts: Names[str]) -> HandoverSpec:
    if len(experts) > MAX_TURNS:
        raise CompositionSchemaError(
            f"the sequence has {len(experts)} experts; give at most {MAX_TURNS}."
        )
    at = fields.at if isinstance(fields.at, list) else [fields.at]
    return HandoverSpec(tuple(experts), tuple(dict.fromkeys(at)))


ROUTER = RouterKind(
    title="Sequence",
    citation="ours; a rule in place of the gate",
    fields=SequenceRouter,
    build=build,
    example={"at": "."},
)
