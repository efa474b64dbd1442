"""Bounds on JSON values of any field: nesting, numbers, lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from server.errors import RequestBoundError

MAX_DEPTH = 100
"""Nesting depth of objects and lists. Reading and copying a request recurses."""

MAX_VALUES = 65_536
"""Objects, lists and numbers in a request."""

_FLOAT32_MAX = 3.4028234663852886e38


def check_values(body: Mapping[str, Any]) -> None:
    """Refuse deep nesting, too many values, and numbers that no field can hold."""
    pending: list[tuple[str, object, int]] = [("", body, 1)]
    count = 1
    while pending:
        path, value, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise RequestBoundError(
                f"{shorten(path)} is nested more than {MAX_DEPTH} deep. Send a flatter request.",
                param=path.partition(".")[0],
            )
        if isinstance(value, dict):
            inner = [(f"{path}.{key}" if path else key, v) for key, v in value.items()]
        elif isinstance(value, list):
            inner = [(path, v) for v in _values_to_check(value)]
        else:
            _check_number(path, value)
            continue
        inner = [(path, v) for path, v in inner if isinstance(v, dict | list | int | float)]
        count += len(inner)
        if count > MAX_VALUES:
            raise _too_many_values()
        pending.extend((path, v, depth + 1) for path, v in inner)


def _values_to_check(values: list[Any]) -> list[Any]:
    """Return the entries of a list to look at: of token ids, the smallest and the largest."""
    types = set(map(type, values))
    if types == {int}:
        return [min(values), max(values)]
    if types != {str} and len(values) > MAX_VALUES:
        raise _too_many_values()
    return values


def _too_many_values() -> RequestBoundError:
    return RequestBoundError(
        f"the request has more than {MAX_VALUES} objects, lists and numbers, lists of token ids "
        "not counted. Send a smaller one."
    )


def _check_number(path: str, value: object) -> None:
    if isinstance(value, float) and not abs(value) <= _FLOAT32_MAX:
        shown = repr(value) if math.isfinite(value) else "not a finite number"
        raise RequestBoundError(
            f"{shorten(path)} is {shown}. Give a number that a 32-bit float holds.",
            param=shorten(path),
        )
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise RequestBoundError(
            f"{shorten(path)} is an integer of {len(str(abs(value)))} digits. Give one that 64 "
            "bits hold.",
            param=shorten(path),
        )


def check_length(name: str, value: object, max_characters: int) -> None:
    """Raise `RequestBoundError` if `value` is a text of more characters."""
    if isinstance(value, str) and len(value) > max_characters:
        raise RequestBoundError(
            f"{name} has {len(value)} characters; at most {max_characters}.",
            param=name.split()[-1],
        )


def check_entries(name: str, value: object, max_entries: int) -> None:
    """Raise `RequestBoundError` if `value` is a list of more entries."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > max_entries:
        raise RequestBoundError(
            f"{shorten(name)} has {len(value)} entries; at most {max_entries}.",
            param=shorten(name),
        )


def shorten(path: str) -> str:
    """Return the path of a field, at most 93 characters of it, for messages."""
    return path if len(path) <= 100 else path[:60] + "..." + path[-30:]
