"""Routes of stored compositions: names that `model` may be, with an owner and a history.

Every key that may use a composition sees its plan. Prompts in it are visible to its owner only: for
other keys the composition is marked as private.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import JsonValue
from starlette.responses import JSONResponse

from adapters import (
    CompositionNotFoundError,
    Compositions,
    CompositionVersion,
)
from composer.errors import CompositionError, quoted
from server.auth.keys import Key, key_of
from server.compose.catalogue import Catalogue
from server.compose.stored_compositions import is_for, is_private, sees
from server.engine.port import Body
from server.http.store_position import position_header
from server.publishing.bodies import parse_json, rollback_version
from server.routes.composition_writer import CompositionWriter, changing
from server.routes.preconditions import actor_of, etag, expected_version

PREFIX = "/v1/compositions"


class CompositionView:
    """Stored compositions as keys see them."""

    def __init__(self, compositions: Compositions, catalogue: Catalogue) -> None:
        self._compositions = compositions
        self._catalogue = catalogue

    def get(self, name: str, key: Key) -> CompositionVersion:
        """The present version, for a key that may use it. Raises `CompositionNotFoundError`."""
        found = self._compositions.find(name)
        if found is not None and not is_for(found, key):
            raise self.unknown(name)
        return self._compositions.get(name)

    @staticmethod
    def unknown(name: str) -> CompositionNotFoundError:
        """Return the error for a key that may not use a composition."""
        message = f"no composition is called {quoted(name)}. GET {PREFIX} lists them."
        return CompositionNotFoundError(message, param="name")

    def version(self, version: CompositionVersion, key: Key) -> Body:
        """Return a version without its plan, and without what this key must not see."""
        shown: Body = {
            "object": "composition",
            "name": version.name,
            "version": version.number,
            "sequence": version.sequence,
            "action": version.action.value,
            "time": version.time,
            "private": is_private(version, key),
        }
        if sees(version, key):
            shown |= {"owner": version.owner, "actor": version.actor}
        if version.origin:
            shown["origin"] = dict(version.origin)
        if version.content is not None and not shown["private"]:
            shown["composition"] = version.content
        return shown

    def whole(self, version: CompositionVersion, key: Key) -> Body:
        """Return a version with its plan, or with the reason why it cannot be computed now."""
        shown = self.version(version, key)
        try:
            return shown | {"plan": self._catalogue.stored_plan(version, key).to_dict()}
        except CompositionError as error:
            return shown | {"error": error.message}


def make_composition_router(
    writer: CompositionWriter, compositions: Compositions, catalogue: Catalogue
) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["compositions"])
    view = CompositionView(compositions, catalogue)
    threads = writer.threads

    def answer(version: CompositionVersion, key: Key, status: int = 200) -> JSONResponse:
        headers = etag(version.number) | position_header(version.sequence)
        return JSONResponse(view.whole(version, key), status_code=status, headers=headers)

    @router.get(PREFIX)
    async def list_compositions(request: Request) -> dict[str, Any]:
        """List the stored compositions with their plans."""
        key = key_of(request.scope)
        versions = [version for version in compositions.all() if is_for(version, key)]
        data = [view.whole(version, key) for version in versions]
        return {"object": "list", "data": data}

    @router.get(PREFIX + "/{name}")
    async def get_composition(name: str, request: Request) -> JSONResponse:
        """Show one stored composition with its plan."""
        key = key_of(request.scope)
        return answer(view.get(name, key), key)

    @router.get(PREFIX + "/{name}/history")
    async def get_history(name: str, request: Request) -> dict[str, Any]:
        """List all versions of a name, the oldest first."""
        key = key_of(request.scope)
        versions = compositions.history(name)
        if not is_for(versions[-1], key):
            raise view.unknown(name)
        return {"object": "list", "data": [view.version(version, key) for version in versions]}

    @router.put(PREFIX + "/{name}")
    async def put_composition(name: str, request: Request) -> JSONResponse:
        """Store the composition in the body under a name that `model` then accepts."""
        key = key_of(request.scope)
        writer.check_name(name)
        content: JsonValue = parse_json(
            await request.body(),
            "the body",
            'Send a composition, e.g. "base + 0.5*polite" with the quotes.',
        )
        version = await writer.put(name, content, request)
        before = compositions.history(name)[: version.number - 1]
        new = not before or before[-1].content is None
        return answer(version, key, 201 if new else 200)

    @router.post(PREFIX + "/{name}/rollback")
    async def roll_back(name: str, request: Request) -> JSONResponse:
        """Restore an earlier version: the previous content, or `{"to": 3}`."""
        key, to = key_of(request.scope), await rollback_version(request)
        writer.check_name(name)
        version = await threads.changes.admit(
            lambda: compositions.rollback(
                name,
                key=changing(key),
                actor=actor_of(request),
                to=to,
                expected=expected_version(request),
                limit=writer.limit,
            )
        )
        return answer(version, key)

    @router.delete(PREFIX + "/{name}")
    async def delete_composition(name: str, request: Request) -> JSONResponse:
        """Delete a stored composition. Running requests are not affected; its history remains."""
        key = key_of(request.scope)
        version = await threads.changes.admit(
            lambda: compositions.delete(
                name,
                key=changing(key),
                actor=actor_of(request),
                expected=expected_version(request),
            )
        )
        body = {"object": "composition", "name": name, "deleted": True}
        body |= {"version": version.number, "sequence": version.sequence}
        return JSONResponse(body, headers=position_header(version.sequence))

    return router
