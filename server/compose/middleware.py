"""In front of vLLM's application: requests that compose are rewritten, all others pass.

A plain ASGI layer, the innermost one, so that vLLM's authentication, CORS and metrics stand before
it. A request to the base model reaches vLLM as the bytes that came; its answer leaves untouched.
"""

from __future__ import annotations

import json
import logging
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from composer.errors import ComposerError, UnsupportedError, nearest_name, quoted
from server import metrics
from server.auth.access_control import route_of
from server.auth.keys import key_of
from server.auth.quotas import Quotas
from server.compose.access import FIELD
from server.compose.request_body import ClientGoneError, read_body, receive_body
from server.compose.request_bounds import GRAMMAR_FIELDS, count_answers
from server.compose.resolve import COMPARE, Resolution, Resolver
from server.compose.response.compare import Comparison, collected
from server.compose.response.response_stream import ResponseDecorator
from server.compose.sagemaker import INVOCATIONS, addressed, invoked
from server.engine.port import Body, Kind, RefusedError
from server.errors import CompositionLostError, error_response, is_anthropic
from server.http.senders import AnthropicErrorSender, StreamGuard
from server.request_record import RequestRecord, record_of

logger = logging.getLogger(__name__)

EXPECT = "X-Composer-Expect"
"""Request header by which clients say that they asked for a composition."""

_FIELDS = (FIELD, "completions")
"""What a misspelt field is compared with; the second is none of ours, and near enough to be taken
for it."""

_STORED = "/v1/compositions/"
"""Our own routes, whose bodies ask no model."""

_COMPOSING = {kind.value: kind for kind in Kind}


class CompositionMiddleware:
    """ASGI middleware; `app` is what vLLM's application does within its own middleware."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        resolver: Resolver,
        quotas: Quotas,
        max_body_bytes: int,
        invocations: bool,
        usage_is_forced: bool,
    ) -> None:
        """`invocations`: whether there is SageMaker's route, `/invocations`. `usage_is_forced`:
        whether every stream ends with its usage (`--enable-force-include-usage`)."""
        self._app = app
        self._invocations = invocations
        self._usage_is_forced = usage_is_forced
        self._resolver = resolver
        self._quotas = quotas
        self._max_body_bytes = max_body_bytes

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
        data = await receive_body(receive, self._max_body_bytes)
        if scope["method"] != "POST" or route_of(scope).startswith(_STORED):
            await self._app(scope, _replay(data, receive), send)
            return
        is_invocation = self._invocations and route_of(scope) == INVOCATIONS
        kind = _COMPOSING.get(route_of(scope))
        body = await read_body(data, required=is_invocation or kind is not None)
        if is_invocation:
            kind, body = invoked(scope, body or {})
            scope = addressed(scope, kind)
        if kind is None and body is not None and FIELD in body:
            raise UnsupportedError(
                f"'{FIELD}' is understood by {', '.join(_COMPOSING)} only. Send the request there.",
                param=FIELD,
            )
        resolution = None
        if body is not None:
            _check_misspelt(kind, body)
            record_of(scope).attempted(body)
            resolution = await self._resolver.resolve(kind, body, key_of(scope))
        rows = self._quotas.hold(key_of(scope), _rows(kind, body, resolution))
        if body is None or resolution is None:
            _check_expected(scope, None)
            if body is not None:
                await self._check_grammar(kind, body)
            with rows:
                await self._pass(scope, _replay(data, receive), send, kind, body)
            return
        with resolution.lease:
            resolution = _recorded(kind, resolution, record_of(scope), self._usage_is_forced)
            _check_expected(scope, resolution)
            await self._answer_resolved(scope, receive, send, kind, body, resolution, rows)

    async def _answer_resolved(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        kind: Kind | None,
        body: Body,
        resolution: Resolution,
        rows: AbstractContextManager[None],
    ) -> None:
        """Answer a request whose adapters are leased; `rows` counts the rows of its key."""
        with rows:
            if not resolution.was_read:
                await self._check_grammar(kind, body)
            if not resolution.alone:
                await self._send(scope, receive, send, resolution)
                return

            async def ask(body: Body, gone: Receive) -> dict[str, Any]:
                return await self._ask(scope, gone, body)

            same = {k: v for k, v in body.items() if k not in (FIELD, COMPARE)}
            async with Comparison(ask, same, resolution.alone) as others:
                decoration = replace(resolution.decoration, compared=others.answers)
                await self._send(scope, receive, send, replace(resolution, decoration=decoration))

    async def _check_grammar(self, kind: Kind | None, body: Body) -> None:
        """Refuse a stream under a wrong grammar while there is a status to say so."""
        if (
            kind is not None
            and kind.generates
            and body.get("stream")
            and GRAMMAR_FIELDS & body.keys()
        ):
            await self._resolver.check_readable(kind, body)

    async def _pass(
        self, scope: Scope, receive: Receive, send: Send, kind: Kind | None, body: Body | None
    ) -> None:
        """Have vLLM answer a request as it came."""
        guard = StreamGuard(send, route_of(scope))
        try:
            await self._app(scope, receive, guard)
        except Exception as error:
            await self._failed(error, guard, kind, body)

    async def _send(
        self, scope: Scope, receive: Receive, send: Send, resolution: Resolution
    ) -> None:
        """Have vLLM answer a resolved request."""
        data, inner = _written(resolution.body, scope)
        guard = StreamGuard(send, route_of(scope))
        sender = ResponseDecorator(guard, resolution.decoration)
        try:
            await self._app(inner, _replay(data, receive), sender)
        except Exception as error:
            await self._failed(error, guard, _COMPOSING.get(route_of(scope)), resolution.body)

    async def _failed(
        self, error: Exception, guard: StreamGuard, kind: Kind | None, body: Body | None
    ) -> None:
        """Answer a request over which vLLM stumbled.

        Raises:
            RefusedError, UnreadableRequestError: vLLM cannot read the request, and nothing has
                been sent.
            Exception: `error`, where neither that nor the end of a stream answers it.
        """
        if guard.streaming:
            refusal = await self._resolver.refusal(_original(error))
            if refusal is None:
                logger.error("A stream failed after its first byte", exc_info=error)
            await guard.fail(refusal)
            return
        if body is not None and kind is not None and kind.generates and not guard.begun:
            await self._resolver.check_readable(kind, body)
        raise error

    async def _ask(self, scope: Scope, receive: Receive, body: Body) -> dict[str, Any]:
        """What a request of the same kind, to a single model, is answered."""
        kind, key = _COMPOSING[route_of(scope)], key_of(scope)
        resolution = await self._resolver.resolve(kind, body, key)
        rows = self._quotas.hold(key, _rows(kind, body, resolution))
        if resolution is None:
            data, scope = _written(body, scope)
            with rows:
                return await collected(self._app, scope, _replay(data, receive))
        with resolution.lease, rows:
            data, scope = _written(resolution.body, scope)
            return await collected(self._app, scope, _replay(data, receive))


def _original(error: Exception) -> Exception:
    """The error behind the one that Starlette raises for it once an answer has begun."""
    cause = error.__cause__
    return cause if type(error) is RuntimeError and isinstance(cause, Exception) else error


def _rows(kind: Kind | None, body: Body | None, resolution: Resolution | None) -> int:
    """How many rows of the engine's batch a request takes."""
    if kind is None or body is None or not kind.generates:
        return 0
    return count_answers(body) * (resolution.rows if resolution is not None else 1)


def _check_misspelt(kind: Kind | None, body: Body) -> None:
    """Raise `CompositionLostError` where a field looks like a misspelt one of ours.

    vLLM ignores fields that it does not know, and the base would answer as if nothing had been
    asked.
    """
    if kind is None:
        return
    for name in body:
        if name[:1] in "cC" and name != FIELD and nearest_name(name.lower(), _FIELDS) == FIELD:
            raise CompositionLostError(
                f"{quoted(name)} is not a field of a request; did you mean '{FIELD}'?", param=name
            )


def _recorded(
    kind: Kind | None, resolution: Resolution, record: RequestRecord, usage_is_forced: bool
) -> Resolution:
    """Note in the record what a request composes, and have its tokens counted there.

    vLLM tells the tokens of a streamed completion only if it is asked for the usage; the client
    does not see what it has not asked for.
    """
    told, adapters = resolution.decoration.composition, resolution.decoration.adapters or ()
    record.resolved(resolution.composition, resolution.recipe, told, adapters)
    if told is not None and "mixture" in told["plan"]:
        metrics.count_choices(member["model"] for member in told["plan"]["members"])
    decoration = replace(resolution.decoration, seen=record.count_tokens)
    body = resolution.body
    if record.composed and kind in (Kind.CHAT, Kind.COMPLETION) and body.get("stream"):
        options = body.get("stream_options") or {}
        given = isinstance(options, dict)  # else vLLM refuses it
        if given and not usage_is_forced and not options.get("include_usage"):
            asked = {**options, "include_usage": True, "continuous_usage_stats": False}
            body = body | {"stream_options": asked}
            decoration = replace(decoration, hides_usage=True)
    return replace(resolution, body=body, decoration=decoration)


def _written(body: Body, scope: Scope) -> tuple[bytes, Scope]:
    """A request as vLLM reads it."""
    data = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return data, {**scope, "headers": _with_length(scope["headers"], len(data))}


def _check_expected(scope: Scope, resolution: Resolution | None) -> None:
    """Raise `CompositionLostError` where a composed answer is expected, and none will come.

    Gateways drop fields that they do not know; the base's answer would look like the right one.
    """
    expected = Headers(scope=scope).get(EXPECT)
    if expected is None:
        return
    if expected != FIELD:
        raise CompositionLostError(
            f"the header {EXPECT} is {quoted(expected)}. Its one value is '{FIELD}'."
        )
    if resolution is None or resolution.decoration.composition is None:
        raise CompositionLostError(
            f"the header {EXPECT} asks for a composed answer, and this request composes nothing. "
            f"A gateway on the way may have dropped the field '{FIELD}': name a formula or a "
            "stored composition as the model instead."
        )


def _replay(data: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body first, then what the connection says: a disconnect."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": data, "more_body": False}

    return replayed


def _with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [(k, v) for k, v in headers if k not in (b"content-length", b"transfer-encoding")]
    return [*kept, (b"content-length", str(length).encode())]
