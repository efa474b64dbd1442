"""What a router is: a way to weigh experts, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BeforeValidator, Field

from composer.errors import nearest_name, quoted
from composer.fields import Fields
from composer.mixtures.specs import Router
from composer.validation import shown

F = TypeVar("F", bound=Fields)
R = TypeVar("R", bound=Router, covariant=True)


@dataclass(frozen=True, slots=True)
class RouterKind(Generic[F, R]):
    """One router.

    `formula` is for readers: what it computes. `fields` is the JSON object that asks for it.
    `build` brings it into normal form, given the experts in the order of the request, and raises
    `CompositionError` where it does not go with them. Rules without a prior leave it to whoever
    asks: a vote, or all experts the same.
    """

    name: str
    title: str
    citation: str
    formula: str
    fields: type[F]
    build: Callable[[F, Sequence[str]], R]


def by_kind(*kinds: str) -> BeforeValidator:
    """Reads `"posterior"` as `{"kind": "posterior"}`, and tells which kinds there are."""

    def read(value: Any) -> Any:
        value = {"kind": value} if isinstance(value, str) else value
        if not isinstance(value, Mapping):
            raise ValueError(f"{shown(value)} is no router; give an object with a 'kind'")
        if "kind" not in value:
            raise ValueError(f"the router has no 'kind'; give one of {', '.join(kinds)}")
        kind = value["kind"]
        if kind not in kinds:
            nearest = nearest_name(kind, kinds) if isinstance(kind, str) else None
            advice = f"; did you mean {quoted(nearest)}?" if nearest else "."
            raise ValueError(
                f"the kind of router {shown(kind)} cannot stand here{advice} "
                f"Use one of: {', '.join(kinds)}"
            )
        return value

    return BeforeValidator(read)


BY_KIND = Field(discriminator="kind")
