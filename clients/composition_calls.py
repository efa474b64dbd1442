"""The calls of stored compositions: names that `model` may be, with an owner and a history.

`if_match` is the number of the version that the composition must be at; where it is at another one,
the call raises Conflict.
"""

from __future__ import annotations

from urllib.parse import quote

from clients.call import Call, reader
from clients.calls import Composition
from clients.responses import (
    CompositionChange,
    CompositionHistory,
    StoredComposition,
    StoredCompositionList,
)


def list_compositions() -> Call[tuple[StoredComposition, ...]]:
    """GET /compositions."""
    read = reader(StoredCompositionList)
    return Call("GET", "/compositions", None, lambda body: read(body).data)


def get_composition(name: str) -> Call[StoredComposition]:
    """GET /compositions/{name}."""
    return Call("GET", _path(name), None, reader(StoredComposition))


def composition_history(name: str) -> Call[tuple[CompositionChange, ...]]:
    """GET /compositions/{name}/history: all versions, the oldest first, deletions included."""
    read = reader(CompositionHistory)
    return Call("GET", _path(name, "history"), None, lambda body: read(body).data)


def put_composition(
    name: str,
    composition: Composition,
    *,
    if_match: int | None = None,
    if_none_match: bool = False,
) -> Call[StoredComposition]:
    """PUT /compositions/{name}: store it, or replace what the name stands for.

    Args:
        name: what `model` may then be.
        composition: what it stands for.
        if_match: only if it is at this version.
        if_none_match: only if the name stands for nothing now.

    Raises:
        ValueError: both conditions are given.
    """
    if if_none_match and if_match is not None:
        raise ValueError("if_match and if_none_match contradict each other; give one")
    headers = {"If-None-Match": "*"} if if_none_match else _condition(if_match)
    return Call("PUT", _path(name), composition, reader(StoredComposition), headers=headers)


def rollback_composition(
    name: str, *, to: int | None = None, if_match: int | None = None
) -> Call[StoredComposition]:
    """POST /compositions/{name}/rollback: to version `to`, or the content before the present one.

    Brings back a deleted one, too.
    """
    body = None if to is None else {"to": to}
    headers = _condition(if_match)
    return Call("POST", _path(name, "rollback"), body, reader(StoredComposition), headers=headers)


def delete_composition(name: str, *, if_match: int | None = None) -> Call[None]:
    """DELETE /compositions/{name}: its history stays, and a rollback undoes it."""
    return Call("DELETE", _path(name), None, lambda body: None, headers=_condition(if_match))


def _path(name: str, *more: str) -> str:
    return "/".join(("/compositions", quote(name, safe=""), *more))


def _condition(number: int | None) -> dict[str, str]:
    return {} if number is None else {"If-Match": f'"{number}"'}
