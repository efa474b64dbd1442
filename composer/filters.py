"""Filters: which tokens a composition touches, judged by the logits of one member."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MAX_TOP_K = 1_000_000
"""Largest value of a `top_k` filter: above any vocabulary size, and exact in float32."""


class FilterKind(StrEnum):
    """Which tokens a filter keeps, judged by the logits `l` [V] of one member."""

    TOP_P = "top_p"
    """The smallest set of likeliest tokens whose probabilities sum to the value."""

    PLAUSIBILITY = "plausibility"
    """Tokens with `l >= log(value) + max l`."""

    TOP_K = "top_k"
    """The `value` likeliest tokens, and those as likely as the last of them."""

    SOFT_TOP_K = "soft_top_k"
    """The same tokens, but the others are not dropped: they keep the logits of this member alone.
    The terms of all other members are centred over the kept tokens, that is, their mean over these
    tokens is subtracted. At most one per composition."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter in a plan. `member` is an index into the plan's members."""

    kind: FilterKind
    member: int
    value: float


@dataclass(frozen=True, slots=True)
class NamedFilter:
    """A filter before members have indices: `model` names the member that reads the request."""

    kind: FilterKind
    model: str
    value: float
