"""What a router is: a way to weigh experts, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar, Union

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from composer.errors import nearest_name, quoted
from composer.fields import Fields, constant
from composer.mixtures.specs import Router
from composer.validation import shown

F = TypeVar("F", bound=Fields)
R = TypeVar("R", bound=Router, covariant=True)


@dataclass(frozen=True, slots=True)
class RouterKind(Generic[F, R]):
    """One router.

    `fields` is the JSON object that asks for it: its docstring is the formula. `example` holds the
    fields of one such object besides `kind`. `build` returns the router in normal form, given the
    experts in the order of the request, and raises `CompositionError` if the two do not match. A
    `WeightedMixtureSpec` with an empty prior leaves the prior to the caller: a vote, or the default
    of equal weights.
    """

    title: str
    citation: str
    fields: type[F]
    build: Callable[[F, Sequence[str]], R]
    example: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The value of the field `kind`."""
        return constant(self.fields, "kind")

    @property
    def formula(self) -> str:
        """What the router computes."""
        return self.fields.__doc__ or ""


@dataclass(frozen=True, slots=True, eq=False)  # hashable, as members of a union must be
class OneOf(Generic[R]):
    """Annotate a field that holds the fields of one of `routers`, or the name of one alone.

    Write `Annotated[Fields, OneOf(routers)]`: pydantic validates the field as a union with `kind`
    as its discriminator, and `"posterior"` as `{"kind": "posterior"}`.
    """

    routers: Sequence[RouterKind[Any, R]]

    def build(self, fields: Fields, experts: Sequence[str]) -> R:
        """Return the router with these fields in normal form.

        Raises:
            CompositionError: it does not match these experts.
        """
        router = next(r for r in self.routers if isinstance(fields, r.fields))
        return router.build(fields, experts)

    @property
    def names(self) -> list[str]:
        return [router.name for router in self.routers]

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        union: Any = Union[tuple(router.fields for router in self.routers)]  # noqa: UP007
        fields = handler.generate_schema(Annotated[union, Field(discriminator="kind")])
        return core_schema.no_info_before_validator_function(self._with_kind, fields)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        fields = {"type": "object", "required": ["kind"], **handler(schema)}
        return {"anyOf": [{"type": "string", "enum": self.names}, fields]}

    def _with_kind(self, value: Any) -> Any:
        value = {"kind": value} if isinstance(value, str) else value
        names = self.names
        if not isinstance(value, Mapping):
            raise ValueError(f"{shown(value)} is not a router; give an object with a 'kind'")
        if "kind" not in value:
            raise ValueError(f"the router has no 'kind'; give one of {', '.join(names)}")
        kind = value["kind"]
        if kind not in names:
            nearest = nearest_name(kind, names) if isinstance(kind, str) else None
            advice = f"; did you mean {quoted(nearest)}?" if nearest else "."
            raise ValueError(
                f"the kind of router {shown(kind)} is not allowed here{advice} "
                f"Use one of: {', '.join(names)}"
            )
        return value
