"""In front of vLLM's application: requests that compose are rewritten, all others pass.

A plain ASGI layer, the innermost one, so that vLLM's authentication, CORS and metrics stand before
it. A request to the base model reaches vLLM as the bytes that came; its answer leaves untouched.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from composer.compiled import RESERVED_ARGS
from composer.errors import ComposerError, UnsupportedError, quoted
from server import metrics
from server.access import FIELD
from server.bounds import check_bounds, count_answers
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
from server.quotas import Quotas
from server.request_record import RequestRecord, record_of
from server.resolve import COMPARE, Resolution, Resolver
from server.rewrite import AnswerSender, AnthropicErrorSender

logger = logging.getLogger(__name__)

_CARRIERS = frozenset({"vllm_xargs", "extra_args"})
"""Fields whose entries reach the engine as `SamplingParams.extra_args`, on any of vLLM's routes."""

_FIELDS = frozenset({"kv_transfer_params", "ec_transfer_params"})
"""Fields of requests that vLLM itself puts among the extra arguments, once it has read them."""

EXPECT = "X-Composer-Expect"
"""Request header by which clients say that they asked for a composition."""

INVOCATIONS = "/invocations"
_SAGEMAKER = b"x-amzn-sagemaker-"
_SAGEMAKER_ADAPTER = "X-Amzn-SageMaker-Adapter-Identifier"

_QUICK_BYTES = 64 * 1024
"""A body up to this size is read within a millisecond or so."""

_STORED = "/v1/compositions/"
"""Our own routes, whose bodies ask no model."""

_COMPOSING = {kind.value: kind for kind in Kind}


class ClientGoneError(Exception):
    """The client disconnected before its request was complete."""


class Front:
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
        if scope["method"] != "POST" or _path(scope).startswith(_STORED):
            await self._app(scope, _replay(data, receive), send)
            return
        invoked = self._invocations and _path(scope) == INVOCATIONS
        kind = _COMPOSING.get(_path(scope))
        body = await _checked(data, required=invoked or kind is not None)
        if invoked:
            kind, body = _invoked(scope, body or {})
            scope = _addressed(scope, kind)
        if kind is None and body is not None and FIELD in body:
            raise UnsupportedError(
                f"'{FIELD}' is understood by {', '.join(_COMPOSING)} only. Send the request there.",
                param=FIELD,
            )
        resolution = None
        if body is not None:
            resolution = await self._resolver.resolve(kind, body, key_of(scope))
        rows = self._quotas.hold(key_of(scope), _rows(kind, body, resolution))
        if body is None or resolution is None:
            _check_expected(scope, None)
            with rows:
                await self._pass(scope, _replay(data, receive), send, kind, body)
            return
        with resolution.lease, rows:
            _check_expected(scope, resolution)
            resolution = _recorded(kind, resolution, record_of(scope), self._usage_is_forced)
            if not resolution.alone:
                await self._send(scope, receive, send, resolution)
                return

            async def ask(body: Body, gone: Receive) -> dict[str, Any]:
                return await self._ask(scope, gone, body)

            same = {k: v for k, v in body.items() if k not in (FIELD, COMPARE)}
            async with Comparison(ask, same, resolution.alone) as others:
                decoration = replace(resolution.decoration, compared=others.answers)
                await self._send(scope, receive, send, replace(resolution, decoration=decoration))

    async def _pass(
        self, scope: Scope, receive: Receive, send: Send, kind: Kind | None, body: Body | None
    ) -> None:
        """Have vLLM answer a request as it came."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            if not begun and body is not None:
                await self._check_readable(kind, body)
            raise

    async def _send(
        self, scope: Scope, receive: Receive, send: Send, resolution: Resolution
    ) -> None:
        """Have vLLM answer a resolved request."""
        data, inner = _written(resolution.body, scope)
        sender = AnswerSender(send, resolution.decoration, _path(scope))
        try:
            await self._app(inner, _replay(data, receive), sender)
        except Exception:
            if not sender.streaming:
                await self._check_readable(_COMPOSING.get(_path(scope)), resolution.body)
                raise
            logger.exception("A stream failed after its first byte")
            await sender.fail()

    async def _check_readable(self, kind: Kind | None, body: Body) -> None:
        """Raise the answer where vLLM stumbled over the shape of a request, and failed for that."""
        if kind is not None and kind.generates:
            await self._resolver.check_readable(kind, body)

    async def _ask(self, scope: Scope, receive: Receive, body: Body) -> dict[str, Any]:
        """What a request of the same kind, to a single model, is answered."""
        kind, key = _COMPOSING[_path(scope)], key_of(scope)
        resolution = await self._resolver.resolve(kind, body, key)
        rows = self._quotas.hold(key, _rows(kind, body, resolution))
        if resolution is None:
            data, scope = _written(body, scope)
            with rows:
                return await collected(self._app, scope, _replay(data, receive))
        with resolution.lease, rows:
            data, scope = _written(resolution.body, scope)
            return await collected(self._app, scope, _replay(data, receive))

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


def _rows(kind: Kind | None, body: Body | None, resolution: Resolution | None) -> int:
    """How many rows of the engine's batch a request takes."""
    if kind is None or body is None or not kind.generates:
        return 0
    told = resolution.decoration.composition if resolution is not None else None
    return count_answers(body) * (int(told["rows"]) if told is not None else 1)


def _recorded(
    kind: Kind | None, resolution: Resolution, record: RequestRecord, usage_is_forced: bool
) -> Resolution:
    """Note in the record what a request composes, and have its tokens counted there.

    vLLM tells the tokens of a streamed completion only if it is asked for the usage; the client
    does not see what it has not asked for.
    """
    told = resolution.decoration.composition
    record.resolved(resolution.composition, resolution.recipe, told)
    if told is not None and "mixture" in told["plan"]:
        metrics.count_choices(member["model"] for member in told["plan"]["members"])
    decoration = replace(resolution.decoration, seen=record.count_tokens)
    body, options = resolution.body, resolution.body.get("stream_options") or {}
    hides = not usage_is_forced and not options.get("include_usage")
    streams = kind in (Kind.CHAT, Kind.COMPLETION) and body.get("stream")
    if record.composed and streams and hides:
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


def _invoked(scope: Scope, body: Body) -> tuple[Kind, Body]:
    """The route that a request to `/invocations` is meant for, and its body there.

    SageMaker's header names an adapter; it stands for the field `model`.

    Raises:
        UnsupportedError: the body is none of a known route, or contradicts the header.
    """
    kind = Kind.CHAT if "messages" in body else Kind.COMPLETION
    if "messages" not in body and "prompt" not in body:
        raise UnsupportedError(
            f"a request to {INVOCATIONS} has 'messages', as in {Kind.CHAT}, or a 'prompt', as in "
            f"{Kind.COMPLETION}. This one has neither."
        )
    adapter = Headers(scope=scope).get(_SAGEMAKER_ADAPTER)
    if adapter is None:
        return kind, body
    if body.get("model", adapter) != adapter or FIELD in body:
        raise UnsupportedError(
            f"the header {_SAGEMAKER_ADAPTER} asks for {quoted(adapter)}, and the body for "
            "something else. Leave one of them out.",
            param="model",
        )
    return kind, body | {"model": adapter}


def _addressed(scope: Scope, kind: Kind) -> Scope:
    """A request to `/invocations` as one to its route.

    vLLM's handler would take the model from SageMaker's header, after all checks, and ignore
    `model`.
    """
    path = scope.get("root_path", "") + kind.value
    headers = [(k, v) for k, v in scope["headers"] if not k.lower().startswith(_SAGEMAKER)]
    return {**scope, "path": path, "raw_path": path.encode(), "headers": headers}


async def _checked(data: bytes, *, required: bool) -> Body | None:
    """As `_read_body`; beside the event loop where it takes long."""
    if len(data) <= _QUICK_BYTES:
        return _read_body(data, required=required)
    return await run_in_threadpool(_read_body, data, required=required)


def _read_body(data: bytes, *, required: bool) -> Body | None:
    """As `_object`, where the request is not too large and holds nothing that is the server's.

    Raises:
        InvalidJsonError: it is not JSON.
        RequestBoundError: it holds more of something than a request may.
        ReservedFieldError: it holds an argument that only the server writes.
    """
    body = _object(data, required=required)
    if body is None:
        return None
    check_bounds(body)
    if _may_hold_reserved(data):
        _check_reserved(body)
    return body


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
    if not isinstance(value, dict):
        return None
    if _may_hold_surrogates(data):
        _check_text(value)
    return value


def _may_hold_surrogates(data: bytes) -> bool:
    """Whether decoding could yield half of a character: escaped, or as the bytes of one."""
    return b"\\u" in data or b"\xed" in data or b"\0" in data


def _check_text(value: object) -> None:
    """Raise `InvalidJsonError` where a text cannot be encoded: no tokenizer reads it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise InvalidJsonError(
            f"the body holds the surrogate {half!r} alone, which is half of a character. Send "
            "whole characters."
        ) from error


def _may_hold_reserved(data: bytes) -> bool:
    """Whether decoding could yield a reserved name: it is there, or could be in disguise."""
    disguised = b"\\u" in data or b"\0" in data
    return disguised or any(name.encode() in data for name in RESERVED_ARGS | _FIELDS)


def _check_reserved(body: Body) -> None:
    """Refuse arguments that only the server may write: they name files, and were checked.

    Raises:
        ReservedFieldError: the client sent one, wherever in the request.
    """
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
    if not isinstance(entries, dict):
        return
    if carrier == "vllm_xargs" and (fields := sorted(_FIELDS & entries.keys())):
        raise ReservedFieldError(
            f"{carrier}.{fields[0]} is a field of the request itself. Give it there.",
            param=f"{carrier}.{fields[0]}",
        )
    if reserved := sorted(RESERVED_ARGS & entries.keys()):
        raise ReservedFieldError(
            f"{carrier}.{reserved[0]} is written by the server only. "
            f"Use the field '{FIELD}' of the request.",
            param=f"{carrier}.{reserved[0]}",
        )
