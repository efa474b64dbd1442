"""Access control: the routes that exist, and the keys and roles that they require.

vLLM's application has dozens of routes, several of which answer without a key, bypass the policies
of adapters, or stop the engine. Only the routes on a list are served; all others are removed from
the application.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from fastapi import FastAPI
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from composer.errors import ComposerError, quoted
from server.auth.keys import ANONYMOUS, Key, KeyRing, Role, set_key
from server.auth.quotas import Quotas
from server.errors import RoleError, RouteNotFoundError, UnauthorizedError, error_response

ALLOWED = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/tokenize",
        "/detokenize",
        "/health",
        "/openapi.json",
    }
)
"""Routes of vLLM that are served; `--expose` adds others."""

METRICS = "/metrics"
KEYLESS = frozenset({"/live", "/ready", "/health"})
"""Routes that require no key, for orchestrators and load balancers."""

PAGES = frozenset({"/", "/status"})
"""Pages for browsers. They and their files hold nothing of this server; the routes that they ask
require a key as ever."""

PAGE_FILES = "/page/"
"""Below it are the scripts, styles and pictures of the pages."""

_ADAPTERS = "/v1/adapters"
_COMPOSITIONS = "/v1/compositions"
_VLLM_ADAPTERS = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
_READING = ("GET", "HEAD", "OPTIONS")


class MetricsAccess(StrEnum):
    """Who may read `/metrics`."""

    KEY = "key"
    """Every key without `models`; everybody if no keys are required."""

    OPEN = "open"
    """Everybody."""

    OFF = "off"
    """Nobody: the route does not exist."""


def restrict_routes(app: FastAPI, exposed: Collection[str]) -> None:
    """Remove every route that is not served from vLLM's application.

    Args:
        app: the application, with vLLM's routes only.
        exposed: further routes to serve.

    Raises:
        ValueError: the application does not have a route in `exposed`.
    """
    paths = {route_path(route) for route in app.router.routes}
    if unknown := sorted(set(exposed) - paths):
        raise ValueError(
            f"--expose {unknown[0]}: vLLM has no such route here. It has "
            f"{', '.join(sorted(filter(None, paths - ALLOWED - {METRICS})))}."
        )
    kept = {*ALLOWED, *exposed} - {METRICS}  # `server.routes.prometheus` replaces it
    app.router.routes[:] = [route for route in app.router.routes if route_path(route) in kept]
    app.openapi_schema = None


def route_path(route: BaseRoute) -> str:
    """Return the path of a route, with the names of its parameters in braces."""
    return str(getattr(route, "path", ""))


def is_page(path: str) -> bool:
    """Return whether a path is that of a page for browsers, or of a file of one."""
    return path in PAGES or path.startswith(PAGE_FILES)


def role_for(method: str, path: str) -> Role:
    """Return the role that a request requires."""
    if path in _VLLM_ADAPTERS or path == _ADAPTERS or path.startswith(_ADAPTERS + "/"):
        return Role.ADMIN if path.endswith("/policy") else Role.PUBLISH
    if path.startswith(_COMPOSITIONS) and method not in _READING:
        return Role.COMPOSE
    return Role.USE


def check_role(key: Key, role: Role, what: str) -> None:
    """Raise `RoleError` if a key lacks the role that `what` asks for."""
    if not key.may(role):
        raise RoleError(
            f"{what} asks for the role '{role}', and the key {quoted(key.name)} has "
            f"{', '.join(sorted(key.roles)) or 'none'}. Use a key with that role."
        )


class AccessControl:
    """ASGI middleware: identifies the key of a request, and checks its role and quota."""

    def __init__(
        self, app: ASGIApp, *, keys: KeyRing, quotas: Quotas, metrics: MetricsAccess
    ) -> None:
        self._app = app
        self._keys = keys
        self._quotas = quotas
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path = route_of(scope)
        try:
            key = self._identify(scope, path)
            await self._check(scope, path, key)
        except ComposerError as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": error.message[:100]})
                return
            await error_response(error, path)(scope, receive, send)
            return
        set_key(scope, key)
        await self._app(scope, receive, send)

    def _identify(self, scope: Scope, path: str) -> Key:
        keyless = path in KEYLESS or is_page(path)
        keyless = keyless or (self._is_metrics(path) and self._metrics_are_open)
        keyless = keyless and scope.get("method", "GET") in _READING
        return self._keys.anonymous(scope) if keyless else self._keys.identify(scope)

    async def _check(self, scope: Scope, path: str, key: Key) -> None:
        method = scope.get("method", "GET")
        role = role_for(method, path)
        if role in (Role.PUBLISH, Role.ADMIN) and not self._keys.publishes:
            raise RouteNotFoundError(
                f"{method} {path} asks for a key with the role '{role}', and no key of this server "
                "has it. Start it with COMPOSER_ADMIN_KEY, --admin-key-file or --keys."
            )
        if not key.may(role) and key.name == ANONYMOUS.name and key.secret is not None:
            raise UnauthorizedError(
                f"the API key of this request is not known, and {method} {path} asks for the role "
                f"'{role}'. Send 'Authorization: Bearer KEY' with a key that has it."
            )
        if not key.may(role) and key.name == ANONYMOUS.name:
            raise UnauthorizedError(
                f"{method} {path} asks for the role '{role}': send 'Authorization: Bearer KEY' "
                "with a key that has it."
            )
        check_role(key, role, f"{method} {path}")
        if self._is_metrics(path) and not self._metrics_are_open and key.models is not None:
            raise RoleError(
                f"{METRICS} names all models, and the key {quoted(key.name)} may use some only. "
                "Use a key without 'models', or start the server with --metrics open."
            )
        if method not in _READING and path not in KEYLESS:
            await self._quotas.count(key)

    @staticmethod
    def _is_metrics(path: str) -> bool:
        return path == METRICS or path.startswith(METRICS + "/")

    @property
    def _metrics_are_open(self) -> bool:
        return self._metrics is MetricsAccess.OPEN


def route_of(scope: Scope) -> str:
    """Return the path of a request, without the prefix of a proxy."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))
