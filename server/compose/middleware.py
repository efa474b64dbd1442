"""The middleware in front of vLLM's application: it resolves requests that compose.

A plain ASGI layer, the innermost one, so that authentication, quotas, metrics and tracing have
passed before it. A request to the base model reaches vLLM as the bytes that the client sent, and
its response is not touched.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from composer.errors import ComposerError, UnsupportedError
from server.auth.access_control import route_of
from server.auth.keys import key_of
from server.auth.quotas import Quotas
from server.compose.access import PINS
from server.compose.incoming.grammar_bounds import GRAMMAR_FIELDS
from server.compose.incoming.request_body import (
    ClientGoneError,
    encode_body,
    read_body,
    receive_body,
    replay_body,
)
from server.compose.incoming.request_bounds import count_answers
from server.compose.incoming.request_fields import (
    FIELD,
    check_expected,
    check_misspelt,
    without_composer_fields,
)
from server.compose.incoming.sagemaker import INVOCATIONS, read_invocation, redirect
from server.compose.resolution import Resolution, record_and_observe
from server.compose.resolve import Resolver
from server.compose.response.compare import Comparison
from server.compose.response.response_fields import ResponseFields
from server.compose.response.response_stream import ResponseDecorator
from server.engine.port import Body, Engine, Kind, RefusedError
from server.engine.render_cache import RenderCache
from server.errors import error_response, is_anthropic
from server.http.inner_requests import collect_response
from server.http.senders import AnthropicErrorSender, StreamGuard
from server.request_record import record_of

logger = logging.getLogger(__name__)

_OWN = ("/v1/compositions/", "/v1/compose/")
"""Our own routes, which read their bodies themselves."""

_KINDS = {kind.value: kind for kind in Kind}


class CompositionMiddleware:
    """ASGI middleware; `app` is the router of vLLM's application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        engine: Engine,
        resolver: Resolver,
        quotas: Quotas,
        max_body_bytes: int,
        has_invocations: bool,
        forces_usage: bool,
    ) -> None:
        """Put compositions in front of vLLM.

        Args:
            app: the application.
            engine: validates requests, and explains errors.
            resolver: resolves requests.
            quotas: of the keys.
            max_body_bytes: largest body of a request.
            has_invocations: whether SageMaker's route `/invocations` is served.
            forces_usage: whether every stream ends with its usage
                (`--enable-force-include-usage`).
        """
        self._app = app
        self._engine = engine
        self._resolver = resolver
        self._quotas = quotas
        self._max_body_bytes = max_body_bytes
        self._has_invocations = has_invocations
        self._forces_usage = forces_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT"):
            await self._app(scope, receive, send)
            return
        path = route_of(scope)
        send = AnthropicErrorSender(send) if is_anthropic(path) else send
        try:
            await self._answer(scope, receive, send)
        except ComposerError as error:
            await error_response(error, path)(scope, receive, send)
        except RefusedError as error:
            await error.response(scope, receive, send)
        except ClientGoneError:
            pass

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read and resolve a request, then have vLLM answer it."""
        data = await receive_body(receive, self._max_body_bytes)
        if scope["method"] != "POST" or route_of(scope).startswith(_OWN):
            await self._app(scope, replay_body(data, receive), send)
            return
        scope, kind, body = await self._read(scope, data)
        resolution = None
        if body is not None:
            record_of(scope).note_attempt(body)
            pins = scope.get(PINS)
            resolution = await self._resolver.resolve(kind, body, key_of(scope), pins)
        rows = self._quotas.hold(key_of(scope), _count_rows(kind, body, resolution))
        if resolution is None:
            check_expected(scope, composed=False)
            cache = await self._check_grammar(kind, body)
            with rows:
                await self._forward(_VllmRequest(scope, data, kind, body, cache), receive, send)
            return
        with resolution.lease:
            resolution = record_and_observe(kind, resolution, record_of(scope), self._forces_usage)
            check_expected(scope, composed=resolution.response_fields.composition is not None)
            with rows:
                await self._answer_resolved(scope, receive, send, kind, body, resolution)

    async def _read(self, scope: Scope, data: bytes) -> tuple[Scope, Kind | None, Body | None]:
        """Return the scope, the route if it composes, and the JSON object of a request."""
        is_invocation = self._has_invocations and route_of(scope) == INVOCATIONS
        kind = _KINDS.get(route_of(scope))
        body = await read_body(data, required=is_invocation or kind is not None)
        if is_invocation:
            kind, body = read_invocation(scope, body or {})
            scope = redirect(scope, kind)
        if body is not None and kind is None and FIELD in body:
            raise UnsupportedError(
                f"'{FIELD}' is understood by {', '.join(_KINDS)} only. Send the request there.",
                param=FIELD,
            )
        if body is not None and kind is not None:
            check_misspelt(body)
        return scope, kind, body

    async def _answer_resolved(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        kind: Kind | None,
        body: Body | None,
        resolution: Resolution,
    ) -> None:
        """Answer a request whose adapters are leased and whose rows are counted."""
        cache = resolution.render_cache or await self._check_grammar(kind, resolution.body)
        data, vllm_scope = encode_body(resolution.body, scope)
        request = _VllmRequest(vllm_scope, data, kind, resolution.body, cache)
        if not resolution.compared_models:
            await self._forward(request, receive, send, resolution.response_fields)
            return

        async def ask(body: Body, receive: Receive) -> dict[str, Any]:
            return await self._ask(scope, receive, body)

        shared = without_composer_fields(body or {})
        async with Comparison(ask, shared, resolution.compared_models) as comparison:
            fields = replace(resolution.response_fields, comparison=comparison.answers)
            await self._forward(request, receive, send, fields)

    async def _check_grammar(self, kind: Kind | None, body: Body | None) -> RenderCache | None:
        """Refuse a stream with an invalid grammar before it begins, while it can have a status.

        Return the rendered prompts of a stream with a valid grammar, None for other requests.
        """
        if kind is None or body is None or not kind.generates or not body.get("stream"):
            return None
        return await self._validate(kind, body) if GRAMMAR_FIELDS & body.keys() else None

    async def _validate(self, kind: Kind, body: Body) -> RenderCache | None:
        """Raise the error that answers a request which vLLM cannot read.

        Return the rendered prompts; None if the request has options that no composition has.
        """
        try:
            return (await self._engine.render(kind, body)).cache
        except UnsupportedError:
            return None

    async def _forward(
        self,
        request: _VllmRequest,
        receive: Receive,
        send: Send,
        response_fields: ResponseFields | None = None,
    ) -> None:
        """Have vLLM answer a request; add `response_fields` to its response."""
        guard = StreamGuard(send, route_of(request.scope))
        sender = guard if response_fields is None else ResponseDecorator(guard, response_fields)
        try:
            with request.rendered_once():
                await self._app(request.scope, replay_body(request.data, receive), sender)
        except Exception as error:
            await self._fail(error, guard, request)
        finally:
            if response_fields is not None:
                await response_fields.close()

    async def _fail(self, error: Exception, guard: StreamGuard, request: _VllmRequest) -> None:
        """Answer a request on which vLLM raised `error`.

        Raises:
            RefusedError, UnreadableRequestError: vLLM cannot read the request, and nothing has
                been sent.
            Exception: `error`, unless it ended a stream.
        """
        if guard.streaming:
            refusal = await self._engine.refusal(_original(error))
            if refusal is None:
                logger.error("A stream failed after its first byte", exc_info=error)
            await guard.fail(refusal)
            return
        kind, body = request.kind, request.body
        if body is not None and kind is not None and kind.generates and not guard.begun:
            await self._validate(kind, body)
        raise error

    async def _ask(self, scope: Scope, receive: Receive, body: Body) -> dict[str, Any]:
        """Return the response of one model to a request of the same kind."""
        kind, key = _KINDS[route_of(scope)], key_of(scope)
        resolution = await self._resolver.resolve(kind, body, key)
        rows = self._quotas.hold(key, _count_rows(kind, body, resolution))
        lease = nullcontext() if resolution is None else resolution.lease
        vllm_body = body if resolution is None else resolution.body
        with lease, rows:
            data, scope = encode_body(vllm_body, scope)
            cache = None if resolution is None else resolution.render_cache
            with _VllmRequest(scope, data, kind, vllm_body, cache).rendered_once():
                response = await collect_response(self._app, scope, replay_body(data, receive))
        return response.json_object()


@dataclass(frozen=True, slots=True)
class _VllmRequest:
    """A request as vLLM's application gets it; `data` is what vLLM reads, `body` its JSON."""

    scope: Scope
    data: bytes
    kind: Kind | None
    body: Body | None
    cache: RenderCache | None

    def rendered_once(self) -> AbstractContextManager[None]:
        """Return a context in which vLLM uses the prompts that are rendered already."""
        return nullcontext() if self.cache is None else self.cache.active_once()


def _original(error: Exception) -> Exception:
    """Return the cause of the error that Starlette raises once a response has begun."""
    cause = error.__cause__
    return cause if type(error) is RuntimeError and isinstance(cause, Exception) else error


def _count_rows(kind: Kind | None, body: Body | None, resolution: Resolution | None) -> int:
    """Return how many rows of the engine's batch a request takes."""
    if kind is None or body is None or not kind.generates:
        return 0
    return count_answers(body) * (resolution.rows if resolution is not None else 1)
