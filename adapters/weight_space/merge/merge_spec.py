"""The request for a merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union

from pydantic import Field

from adapters.errors import MergeError
from adapters.weight_space.merge.method import MergeMember, Method
from adapters.weight_space.merge.methods import METHODS
from composer.errors import nearest_name
from composer.validation import shown, validate

_BY_NAME = {method.name: method for method in METHODS}

MERGE_SCHEMA: Any = Annotated[
    Union[tuple(method.fields for method in METHODS)],  # noqa: UP007 - of a list
    Field(discriminator="method"),
]
"""The type of a merge in the API's schema: one alternative for each method."""


@dataclass(frozen=True, slots=True)
class MergeSpec:
    """A merge whose values have been checked.

    `rank` is None for the exact result. `parameters` holds every parameter of the method, defaults
    included, so that a stored specification is complete, the seed included.
    """

    method: Method
    adapters: tuple[MergeMember, ...]
    rank: int | None
    parameters: Mapping[str, float | None]

    @classmethod
    def from_json(cls, value: object) -> MergeSpec:
        """Read a JSON object. Raises `MergeError`: the message names the value and the remedy."""
        if not isinstance(value, Mapping):
            raise MergeError(f"merge is {shown(value)}; give a JSON object.", param="merge")
        method = _method(value.get("method"))
        fields: Any = validate(method.fields, value, "merge", MergeError)
        _check_members(method, fields.adapters)
        parameters = {p.name: getattr(fields, p.name) for p in method.parameters}
        return cls(method, tuple(fields.adapters), fields.rank, parameters)

    def to_json(self) -> dict[str, object]:
        """Return the object that `from_json` reads, parameters beside the other fields."""
        return {
            "method": self.method.name,
            "adapters": [member.model_dump() for member in self.adapters],
            **self.parameters,
            "rank": self.rank,
        }


def _method(name: object) -> Method:
    if isinstance(name, str) and name in _BY_NAME:
        return _BY_NAME[name]
    nearest = nearest_name(name, _BY_NAME) if isinstance(name, str) else None
    raise MergeError(
        f"merge.method is {shown(name)}"
        + (f"; did you mean '{nearest}'? " if nearest else ". ")
        + f"Use one of: {', '.join(_BY_NAME)}.",
        param="merge.method",
    )


def _check_members(method: Method, members: Sequence[MergeMember]) -> None:
    """Check the rules that depend on the method. Raises `MergeError`."""
    for i, member in enumerate(members):
        if not method.weighted and member.weight not in (0, 1):
            raise MergeError(
                f"merge.adapters[{i}].weight is {member.weight:g}, but '{method.name}' has no "
                "weights; leave it out.",
                param=f"merge.adapters[{i}].weight",
            )
    count = sum(member.weight != 0 for member in members)
    if count < method.least or (method.most is not None and count > method.most):
        allowed = f"{'exactly' if method.least == method.most else 'at least'} {method.least}"
        raise MergeError(
            f"merge.adapters has {count} adapters with a weight other than 0; '{method.name}' "
            f"merges {allowed}.",
            param="merge.adapters",
        )
