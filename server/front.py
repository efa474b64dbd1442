"""In front of vLLM's application: requests that compose are rewritten, all others pass.

A plain ASGI layer, the innermost one, so that vLLM's authentication, CORS and metrics stand before
it. A request to the base model reaches vLLM as the bytes that came; its answer leaves untouched.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from composer.compiled import RESERVED_ARGS
from composer.errors import ComposerError, UnsupportedError, quoted
from server.access import FIELD
from server.bounds import check_bounds
from server.comparison import Comparison, collected
from server.engine import Body, Kind, RefusedError
from server.errors import (
    BodyTooLargeError,
    CompositionLostError,
    InvalidJsonError,
    ReservedFieldError,
    error_response,
    is_anthropic,
)
from server.keys import key_of
from server.resolve import COMPARE, Resolution, Resolver
from server.rewrite import AnswerSender, AnthropicErrorSender

logger = logging.getLogger(__name__)

_CARRIERS = frozenset({"vllm_xargs", "extra_args"})
"""Fields whose entries reach the engine as `SamplingParams.extra_args`, on any of vLLM's routes."""

EXPECT = "X-Composer-Expect"
"""Request header by which clients say that they asked for a composition."""

_COMPOSING = {kind.value: kind for kind in Kind}


class ClientGoneError(Exception):
    """The client disconnected before its request was complete."""


class Front:
    """ASGI middleware; `app` is what vLLM's application does within its own middleware."""

    def __init__(self, app: ASGIApp, *, resolver: Resolver, max_body_bytes: int) -> None:
        self._app = app
        self._resolver = resolver
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT"):
            await self._app(scope, receive, send)
            return
        path = _path(scope)
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
        data = await self._read(receive)
        if scope["method"] != "POST":
            await self._app(scope, _replay(data, receive), send)
            return
        resolution = await self._resolve(scope, data)
        if resolution is None:
            _check_expected(scope, None)
            await self._app(scope, _replay(data, receive), send)
            return
        with resolution.lease:
            _check_expected(scope, resolution)
            if not resolution.alone:
                await self._send(scope, receive, send, resolution)
                return

            async def ask(body: Body, gone: Receive) -> dict[str, Any]:
                return await self._ask(scope, gone, body)

            same = {k: v for k, v in json.loads(data).items() if k not in (FIELD, COMPARE)}
            async with Comparison(ask, same, resolution.alone) as others:
                decoration = replace(resolution.decoration, compared=others.answers)
                await self._send(scope, receive, send, replace(resolution, decoration=decoration))

    async def _send(
        self, scope: Scope, receive: Receive, send: Send, resolution: Resolution
    ) -> None:
        """Have vLLM answer a resolved request."""
        data, scope = _written(resolution.body, scope)
        sender = AnswerSender(send, resolution.decoration, _path(scope))
        try:
            await self._app(scope, _replay(data, receive), sender)
        except Exception:
            if not sender.streaming:
                raise
            logger.exception("A stream failed after its first byte")
            await sender.fail()

    async def _ask(self, scope: Scope, receive: Receive, body: Body) -> dict[str, Any]:
        """What a request of the same kind, to a single model, is answered."""
        resolution = await self._resolver.resolve(_COMPOSING[_path(scope)], body, key_of(scope))
        if resolution is None:
            data, scope = _written(body, scope)
            return await collected(self._app, scope, _replay(data, receive))
        with resolution.lease:
            data, scope = _written(resolution.body, scope)
            return await collected(self._app, scope, _replay(data, receive))

    async def _resolve(self, scope: Scope, data: bytes) -> Resolution | None:
        kind = _COMPOSING.get(_path(scope))
        suspicious = _may_compose(data)
        key = key_of(scope)
        body = _object(data, required=kind is not None)
        if body is None:
            return None
        check_bounds(body)
        if suspicious:
            _check_reserved(body, kind)
        return await self._resolver.resolve(kind, body, key)

    async def _read(self, receive: Receive) -> bytes:
        """The whole body. Raises `BodyTooLargeError` as soon as it is one byte too many."""
        data = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            data += message.get("body", b"")
            if len(data) > self._max_body_bytes:
                raise BodyTooLargeError(
                    f"the body has more than {self._max_body_bytes} bytes. Send less, or start "
                    "the server with a larger --max-body-mib."
                )
            if not message.get("more_body", False):
                return bytes(data)


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


def _path(scope: Scope) -> str:
    """The path without the prefix of a proxy."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


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


def _object(data: bytes, *, required: bool) -> Body | None:
    """The JSON object in `data`; None for anything else, which vLLM answers as it sees fit.

    Raises:
        InvalidJsonError: no parser of ours or vLLM's reads it, and the route takes nothing else.
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        if not required:
            return None
        raise InvalidJsonError(
            f"the body is not JSON: {error}. Send one JSON object, e.g. "
            '{"model": "base", "messages": [{"role": "user", "content": "Hello"}]}.'
        ) from error
    except RecursionError as error:
        raise InvalidJsonError("the body is nested too deeply. Send a flatter one.") from error
    return value if isinstance(value, dict) else None


def _may_compose(data: bytes) -> bool:
    """Whether decoding could yield a reserved name: it is there, or could be in disguise."""
    return any(name.encode() in data for name in RESERVED_ARGS) or b"\\u" in data or b"\0" in data


def _check_reserved(body: Body, kind: Kind | None) -> None:
    """Refuse arguments that only the server may write: they name files, and were checked.

    Raises:
        ReservedFieldError: the client sent one, wherever in the request.
        UnsupportedError: the request composes on a route that does not.
    """
    if kind is None and FIELD in body:
        raise UnsupportedError(
            f"'{FIELD}' is understood by {', '.join(_COMPOSING)} only. Send the request there.",
            param=FIELD,
        )
    left: list[Any] = [body]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            for carrier in _CARRIERS & value.keys():
                _check_carrier(carrier, value[carrier])
            left.extend(v for v in value.values() if isinstance(v, dict | list))
        elif isinstance(value, list):
            left.extend(v for v in value if isinstance(v, dict | list))


def _check_carrier(carrier: str, entries: object) -> None:
    reserved = sorted(RESERVED_ARGS & entries.keys()) if isinstance(entries, dict) else []
    if reserved:
        raise ReservedFieldError(
            f"{carrier}.{reserved[0]} is written by the server only. "
            f"Use the field '{FIELD}' of the request.",
            param=f"{carrier}.{reserved[0]}",
        )
