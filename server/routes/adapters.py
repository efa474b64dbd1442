"""The routes for administrators: publish, replace, roll back and remove adapters.

They stand before vLLM's application, and do not exist where no key could have the role.
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
from server.publishing.publisher import AdapterService
from server.publishing.store_threads import StoreThreads
from server.publishing.uploads import Uploads, take_profile
from server.routes.preconditions import (
    actor_of,
    etag,
    expected_version,
    json_object,
    rollback_version,
)
from server.server_paths import ServerPaths

logger = logging.getLogger(__name__)

PREFIX = "/v1/adapters"
_VLLM_ROUTES = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")


class AdminRoutes:
    """ASGI middleware: requests that change adapters go to `admin`, all others to `app`.

    `server.auth.access_control` stands before it and has checked the role of the key.
    """

    def __init__(
        self, app: ASGIApp, *, admin: ASGIApp, max_body_bytes: int, max_json_bytes: int
    ) -> None:
        """`max_body_bytes` of files, `max_json_bytes` of everything else."""
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
        """`receive` that fails as soon as the body is one byte too long."""
        kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
        alias = route_of(scope).removeprefix(PREFIX + "/")
        files = scope["method"] == "PUT" and "/" not in alias and kind != "application/json"
        most = self._max_body_bytes if files else self._max_json_bytes
        option = "--max-adapter-mib" if files else "--max-body-mib"
        left = most

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise BodyTooLargeError(
                    f"the body has more than {most} bytes. Send less, or start the server with a "
                    f"larger {option}."
                )
            return message

        return counted


def make_admin(
    service: AdapterService, uploads: Uploads, threads: StoreThreads, paths: ServerPaths
) -> FastAPI:
    """The application behind the door; none of its errors names one of `paths`."""

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
    admin.add_exception_handler(ClientDisconnect, _answer_nobody)
    admin.add_exception_handler(404, _answer_missing)
    admin.add_exception_handler(405, _answer_missing)
    admin.add_exception_handler(400, _answer_unread)
    store = service.store

    def entry(version: Version) -> dict[str, Any]:
        """What an alias is now."""
        served = service.registry.get(version.alias)
        told: dict[str, Any] = {"object": "adapter", **version.to_json()}
        told["served"] = served is not None and served.version == version.number
        failure = service.failures.get(version.alias)
        if version.digest is not None:
            try:
                told["adapter"] = store.stored(version.digest).report.to_json()
            except (AdapterNotFoundError, AdapterStoreError) as error:
                failure = failure or error.message
        if failure is not None:
            told["error"] = paths.hide(failure)
        return told

    def answer(version: Version, status: int = 200) -> JSONResponse:
        headers = etag(version.number) | position_header(version.sequence)
        return JSONResponse(entry(version), status_code=status, headers=headers)

    @admin.get(PREFIX)
    def list_adapters() -> JSONResponse:
        """All adapters, and the generations that requests in flight still compute with."""
        data = [entry(version) for version in store.all()]
        current = {
            served.generation for served in map(service.registry.get, service.registry) if served
        }
        retiring = [g.engine_name for g in service.registry.live if g not in current]
        return JSONResponse({"object": "list", "data": data, "retiring": sorted(retiring)})

    @admin.get(PREFIX + "/{alias}")
    def get_adapter(alias: str) -> JSONResponse:
        """One adapter."""
        return answer(store.current(alias))

    @admin.get(PREFIX + "/{alias}/history")
    def get_history(alias: str) -> JSONResponse:
        """All versions of an alias, the oldest first."""
        versions = store.history(alias)
        return JSONResponse({"object": "list", "data": [v.to_json() for v in versions]})

    @admin.put(PREFIX + "/{alias}")
    async def put_adapter(alias: str, request: Request) -> JSONResponse:
        """Publish or replace an adapter."""
        with threads.publishing.admitted():
            async with uploads.received(request) as upload:
                if upload.policy is not None and not key_of(request.scope).may(Role.ADMIN):
                    raise RoleError(
                        "the publication has a policy, which asks for the role 'admin'. Leave it "
                        "out: an alias keeps the policy that it has."
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
        """Say who may use an adapter, and how."""
        policy = Policy.from_json(await json_object(request))
        return answer(
            await service.set_policy(
                alias, policy, expected=expected_version(request), actor=actor_of(request)
            )
        )

    @admin.put(PREFIX + "/{alias}/profile")
    async def put_profile(alias: str, request: Request) -> JSONResponse:
        """Say what an adapter is for, so that routers find it."""
        profile = Profile.from_json(await json_object(request))
        return answer(
            await service.set_profile(
                alias, profile, expected=expected_version(request), actor=actor_of(request)
            )
        )

    @admin.post(PREFIX + "/{alias}/rollback")
    async def roll_back(alias: str, request: Request) -> JSONResponse:
        """Let the alias stand for an earlier version: the one before, or `{"to": 3}`."""
        to = await rollback_version(request)
        return answer(
            await service.rollback(
                alias, to=to, expected=expected_version(request), actor=actor_of(request)
            )
        )

    @admin.delete(PREFIX + "/{alias}")
    async def delete_adapter(alias: str, request: Request) -> JSONResponse:
        """Stop serving an adapter. Its history stays."""
        return answer(
            await service.delete(alias, expected=expected_version(request), actor=actor_of(request))
        )

    @admin.post("/v1/load_lora_adapter")
    async def load_lora_adapter(request: Request) -> Response:
        """As vLLM's route of this name; `lora_path` is a source like that of a publication."""
        body = await json_object(request)
        alias, source = _text(body, "lora_name"), _text(body, "lora_path")
        if not body.get("load_inplace", False) and alias in service.registry:
            raise RequestError(
                f"the adapter {quoted(alias)} has already been loaded. "
                "Set 'load_inplace' to true to replace it.",
                param="lora_name",
            )
        fetch, profile = uploads.from_source(source), take_profile(body)
        with threads.publishing.admitted():
            version = await service.publish(
                alias, fetch, expected=None, actor=actor_of(request), profile=profile
            )
        return PlainTextResponse(
            f"Success: LoRA adapter '{alias}' added successfully.",
            headers=position_header(version.sequence),
        )

    @admin.post("/v1/unload_lora_adapter")
    async def unload_lora_adapter(request: Request) -> Response:
        """As vLLM's route of this name."""
        alias = _text(await json_object(request), "lora_name")
        version = await service.delete(alias, expected=None, actor=actor_of(request))
        return PlainTextResponse(
            f"Success: LoRA adapter '{alias}' removed successfully.",
            headers=position_header(version.sequence),
        )

    return admin


def _is_admin(scope: Scope) -> bool:
    path = route_of(scope)
    return path == PREFIX or path.startswith(PREFIX + "/") or path in _VLLM_ROUTES


def _text(body: dict[str, Any], field: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not value:
        raise RequestError(f"'{field}' is {value!r}. Give a name.", param=field)
    return value


async def _answer_nobody(_: Request, __: Exception) -> Response:
    """The client has gone before its upload was complete: nobody reads this, nobody is to blame."""
    return Response(status_code=400)


async def _answer_unread(_: Request, error: Exception) -> Response:
    """Starlette cannot read the body, a form say."""
    problem = error.detail if isinstance(error, HTTPException) else str(error)
    said = RequestError(f"the body cannot be read: {problem} Send a well-formed one.")
    return error_response(said, PREFIX)


async def _answer_missing(request: Request, _: Exception) -> Response:
    return error_response(
        AdapterNotFoundError(
            f"{request.method} {request.url.path} is no route. There are GET {PREFIX}, and GET, "
            f"PUT and DELETE {PREFIX}/ALIAS, .../history, .../policy and .../rollback."
        ),
        PREFIX,
    )
