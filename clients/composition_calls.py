"""Calls for stored compositions: names for `model`, each with an owner and a history.

`if_match` is the version that the composition must be at; at another version, the call raises
Conflict.
"""

from __future__ import annotations

from functools import partial

from clients.call import Call, condition, path_of, reader
from clients.calls import Composition
from clients.responses import (
    CompositionChange,
    CompositionHistory,
    StoredComposition,
    StoredCompositionList,
)

_path = partial(path_of, "compositions")


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
    name: str, composition: Composition, *, if_match: int | None = None, if_none_match: bool = False
) -> Call[StoredComposition]:
    """PUT /compositions/{name}: store a composition, or replace one.

    Args:
        name: for `model` in requests.
        composition: what to compute for this name.
        if_match: only if the name is at this version.
        if_none_match: only if the name does not exist or was deleted.

    Raises:
        ValueError: both conditions are given.
    """
    headers = condition(if_match, if_none_match=if_none_match)
    return Call("PUT", _path(name), composition, reader(StoredComposition), headers=headers)


def rollback_composition(
    name: str, *, to: int | None = None, if_match: int | None = None
) -> Call[StoredComposition]:
    """POST /compositions/{name}/rollback: to version `to`, by default to the content before.

    Restores a deleted composition, too.
    """
    body = None if to is None else {"to": to}
    headers = condition(if_match)
    return Call("POST", _path(name, "rollback"), body, reader(StoredComposition), headers=headers)


def delete_composition(name: str, *, if_match: int | None = None) -> Call[None]:
    """DELETE /compositions/{name}. The history stays; a rollback undoes it."""
    return Call("DELETE", _path(name), None, lambda body: None, headers=condition(if_match))
