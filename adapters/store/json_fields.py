"""Reading the fields of a JSON object whose types are not known yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

_T = TypeVar("_T")


def typed(value: Mapping[str, object], name: str, kind: type[_T]) -> _T:
    """The field `name`, which is a `kind`; true and false are no numbers. Raises `ValueError`."""
    found = value[name]
    if not isinstance(found, kind) or isinstance(found, bool):
        raise ValueError(f"{name} is {found!r}")
    return found
