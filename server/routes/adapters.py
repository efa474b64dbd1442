"""The routes for administrators: publish, replace, roll back and remove adapters.

They run in front of vLLM's application, and exist only if some key may have the role.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters import AdapterNotFoundError, AdapterStoreError, Policy, Profile, Version
from adapters.disk import store_error
from composer.errors import ComposerError, quoted
from server.auth.access_control import route_of
from server.auth.keys import Role, key_of
from server.errors import BodyTooLargeError, RequestError, RoleError, error_response, status_of
from server.http.store_position import position_header
from server.publishing.bodies import (
    LoadAdapter,
    UnloadAdapter,
    json_object,
    read_body,
    rollback_version,
)
from server.publishing.publisher import AdapterService
from server.publishing.store_threads import StoreThreads
from server.publishing.uploads import Uploads
from server.routes.preconditions import actor_of, etag, expected_version
from server.server_paths import ServerPaths

logger = logging.getLogger(__name__)

PREFIX = "/v1/adapters"
_VLLM_ROUTES = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")


class AdminRoutes:
    """ASGI middleware: requests that change adapters go to `admin`, all others to `app`.

    `server.auth.access_control` runs before it and has checked the role of the key.
    """

    def __init__(
        self, app: ASGIApp, *, admin: ASGIApp, max_body_bytes: int, max_json_bytes: int
    ) -> None:
        """Bound bodies with files to `max_body_bytes`, all others to `max_json_bytes`."""
        self._app = app
        self._admin = admin
        self._max_body_bytes = max_body_bytes
        self._max_json_bytes = max_json_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _is_admin(scope):
            await self._app(scope, receive, send)
        else:
            await self._admin(scope, self._counted(scope, receive), send)

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        """Return a `receive` that raises as soon as the body is one byte too long."""
        kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
        alias = route_of(scope).removeprefix(PREFIX + "/")
        files = scope["method"] == "PUT" and "/" not in alias and kind != "application/json"
        limit = self._max_body_bytes if files else self._max_json_bytes
        option = "--max-adapter-mib" if files else "--max-body-mib"
        left = limit

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise BodyTooLargeError(
                    f"the body has more than {limit} bytes. Send less, or start the server with a "
                    f"larger {option}."
                )
            return message

        return counted


def make_admin(
    service: AdapterService, uploads: Uploads, threads: StoreThreads, paths: ServerPaths
) -> FastAPI:
    """Return the application of the routes; its errors do not show `paths`."""

    async def answer_error(_: Request, error: Exception) -> Response:
        if isinstance(error, OSError):
            error = store_error("take the request", error, writing=True)
        if not isinstance(error, ComposerError):
            raise error
        if status_of(error) >= 500:
            logger.error("%s", error.message)
        error.message = paths.hide(error.message)
        return error_response(error, PREFIX)

    admin = FastAPI(title="Adapters", openapi_url=None, docs_url=None)
    admin.add_exception_handler(ComposerError, answer_error)
    admin.add_exception_handler(OSError, answer_error)
    admin.add_exception_handler(ClientDisconnect, _answer_disconnected)
    admin.add_exception_handler(404, _answer_missing)
    admin.add_exception_handler(405, _answer_missing)
    admin.add_exception_handler(400, _answer_unread)
    store = service.store

    def entry(version: Version) -> dict[str, Any]:
        """Return the JSON object that describes an alias."""
        served = service.registry.get(version.alias)
        shown: dict[str, Any] = {"object": "adapter", **version.to_json()}
        shown["served"] = served is not None and served.version == version.number
        failure = service.failures.get(version.alias)
        if version.digest is not None:
            try:
                shown["adapter"] = store.stored(version.digest).report.to_json()
            except (AdapterNotFoundError, AdapterStoreError) as error:
                failure = failure or error.message
        if failure is not None:
            shown["error"] = paths.hide(failure)
        return shown

    def answer(version: Version, status: int = 200) -> JSONResponse:
        headers = etag(version.number) | position_header(version.sequence)
        return JSONResponse(entry(version), status_code=status, headers=headers)

    @admin.get(PREFIX)
    def list_adapters() -> JSONResponse:
        """List all adapters, and the generations that requests in flight still use."""
        data = [entry(version) for version in store.all()]
        current = {
            served.generation for served in map(service.registry.get, service.registry) if served
        }
        retiring = [g.engine_name for g in service.registry.live if g not in current]
        return JSONResponse({"object": "list", "data": data, "retiring": sorted(retiring)})

    @admin.get(PREFIX + "/{alias}")
    def get_adapter(alias: str) -> JSONResponse:
        """Show one adapter."""
        return answer(store.current(alias))

    @admin.get(PREFIX + "/{alias}/history")
    def get_history(alias: str) -> JSONResponse:
        """List all versions of an alias, the oldest first."""
        versions = store.history(alias)
        return JSONResponse({"object": "list", "data": [v.to_json() for v in versions]})

    @admin.put(PREFIX + "/{alias}")
    async def put_adapter(alias: str, request: Request) -> JSONResponse:
        """Publish or replace an adapter."""
        with threads.publishing.admitted():
            async with uploads.received(request) as upload:
                if upload.policy is not None and not key_of(request.scope).may(Role.ADMIN):
                    raise RoleError(
                        "the publication has a policy, which needs the role 'admin'. Leave it out: "
                        "an alias keeps its policy."
                    )
                version = await service.publish(
                    alias,
                    upload.fetch,
                    expected=expected_version(request),
                    actor=actor_of(request),
                    policy=upload.policy,
                    profile=upload.profile,
                )
        return answer(version, 201 if version.number == 1 else 200)

    @admin.put(PREFIX + "/{alias}/policy")
    async def put_policy(alias: str, request: Request) -> JSONResponse:
        """Set who may use an adapter, and how."""
        policy = Policy.from_json(await json_object(request))
        return answer(
            await service.set_policy(
                alias, policy, expected=expected_version(request), actor=actor_of(request)
            )
        )

    @admin.put(PREFIX + "/{alias}/profile")
    async def put_profile(alias: str, request: Request) -> JSONResponse:
        """Set the texts that routers compare prompts with."""
        profile = Profile.from_json(await json_object(request))
        return answer(
            await service.set_profile(
                alias, profile, expected=expected_version(request), actor=actor_of(request)
            )
        )

    @admin.post(PREFIX + "/{alias}/rollback")
    async def roll_back(alias: str, request: Request) -> JSONResponse:
        """Restore an earlier version: the previous content, or `{"to": 3}`."""
        to = await rollback_version(request)
        return answer(
            await service.rollback(
                alias, to=to, expected=expected_version(request), actor=actor_of(request)
            )
        )

    @admin.delete(PREFIX + "/{alias}")
    async def delete_adapter(alias: str, request: Request) -> JSONResponse:
        """Stop serving an adapter. Its history remains."""
        return answer(
            await service.delete(alias, expected=expected_version(request), actor=actor_of(request))
        )

    @admin.post("/v1/load_lora_adapter", response_class=PlainTextResponse)
    async def load_lora_adapter(request: Request) -> Response:
        """Load an adapter as vLLM's route does; `lora_path` is a source as in a publication."""
        body = read_body(LoadAdapter, await json_object(request))
        alias = body.lora_name
        if not body.load_inplace and alias in service.registry:
            raise RequestError(
                f"the adapter {quoted(alias)} has already been loaded. "
                "Set 'load_inplace' to true to replace it.",
                param="lora_name",
            )
        with threads.publishing.admitted():
            version = await service.publish(
                alias,
                uploads.from_source(body.lora_path),
                expected=None,
                actor=actor_of(request),
                profile=body.profile,
            )
        return PlainTextResponse(
            f"Success: LoRA adapter '{alias}' added successfully.",
            headers=position_header(version.sequence),
        )

    @admin.post("/v1/unload_lora_adapter", response_class=PlainTextResponse)
    async def unload_lora_adapter(request: Request) -> Response:
        """Unload an adapter as vLLM's route does."""
        alias = read_body(UnloadAdapter, await json_object(request)).lora_name
        version = await service.delete(alias, expected=None, actor=actor_of(request))
        return PlainTextResponse(
            f"Success: LoRA adapter '{alias}' removed successfully.",
            headers=position_header(version.sequence),
        )

    return admin


def _is_admin(scope: Scope) -> bool:
    path = route_of(scope)
    return path == PREFIX or path.startswith(PREFIX + "/") or path in _VLLM_ROUTES


async def _answer_disconnected(_: Request, __: Exception) -> Response:
    """Answer a client that has disconnected during its upload; nobody reads the answer."""
    return Response(status_code=400)


async def _answer_unread(_: Request, error: Exception) -> Response:
    """Answer a body that Starlette cannot read, such as a malformed form."""
    problem = error.detail if isinstance(error, HTTPException) else str(error)
    unread = RequestError(f"the body cannot be read: {problem} Send a well-formed one.")
    return error_response(unread, PREFIX)


async def _answer_missing(request: Request, _: Exception) -> Response:
    return error_response(
        AdapterNotFoundError(
            f"{request.method} {request.url.path} is not a route. There are GET {PREFIX}, and GET, "
            f"PUT and DELETE {PREFIX}/ALIAS, .../history, .../policy and .../rollback."
        ),
        PREFIX,
    )
