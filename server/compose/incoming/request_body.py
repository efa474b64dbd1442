"""Request bodies: received, decoded and checked before anything else happens."""

from __future__ import annotations

import json
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Receive, Scope

from composer.engine_plan import RESERVED_ARGS
from server.compose.incoming.request_bounds import check_bounds
from server.compose.incoming.request_fields import FIELD
from server.engine.port import Body
from server.errors import BodyTooLargeError, InvalidJsonError, ReservedFieldError

_EXTRA_ARGS_FIELDS = frozenset({"vllm_xargs", "extra_args"})
"""Fields whose entries reach the engine as `SamplingParams.extra_args`, on any route of vLLM."""

_TRANSFER_FIELDS = frozenset({"kv_transfer_params", "ec_transfer_params"})
"""Fields of requests that vLLM itself copies into the extra arguments."""

_INLINE_BYTES = 64 * 1024
"""Largest body that is parsed on the event loop; parsing it takes about a millisecond."""


class ClientGoneError(Exception):
    """The client disconnected before its request was complete."""


async def receive_body(receive: Receive, max_bytes: int) -> bytes:
    """Return the whole body.

    Raises:
        BodyTooLargeError: the body exceeds `max_bytes`; raised as soon as it does.
        ClientGoneError: the client disconnected.
    """
    data = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        data += message.get("body", b"")
        if len(data) > max_bytes:
            raise BodyTooLargeError(
                f"the body has more than {max_bytes} bytes. Send less, or start the server with a "
                "larger --max-body-mib."
            )
        if not message.get("more_body", False):
            return bytes(data)


def replay_body(data: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields `data` first, then the messages of `receive`."""
    replayed = False

    async def replay() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": data, "more_body": False}

    return replay


def encode_body(body: Body, scope: Scope) -> tuple[bytes, Scope]:
    """Return `body` as JSON, and the scope with the headers that describe it."""
    data = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    dropped = (b"content-length", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in dropped]
    headers.append((b"content-length", str(len(data)).encode()))
    return data, {**scope, "headers": headers}


async def read_body(data: bytes, *, required: bool) -> Body | None:
    """Parse a body as `parse_body` does, in a thread if it is large."""
    if len(data) <= _INLINE_BYTES:
        return parse_body(data, required=required)
    return await run_in_threadpool(parse_body, data, required=required)


def parse_body(data: bytes, *, required: bool) -> Body | None:
    """Return the JSON object of a request, or None for anything else, which vLLM then answers.

    Args:
        data: the body.
        required: whether the route accepts nothing but JSON.

    Raises:
        InvalidJsonError: the body is not JSON.
        RequestBoundError: a value of the body exceeds its bound.
        ReservedFieldError: the body holds an argument that only the server may write.
    """
    body = _json_object(data, required=required)
    if body is None:
        return None
    check_bounds(body)
    if _may_hold_reserved(data):
        _check_reserved(body)
    return body


def _json_object(data: bytes, *, required: bool) -> Body | None:
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
        _check_surrogates(value)
    return value


def _may_hold_surrogates(data: bytes) -> bool:
    """Return whether decoding may yield a lone surrogate, from an escape or from its bytes."""
    return b"\\u" in data or b"\xed" in data or b"\0" in data


def _check_surrogates(value: object) -> None:
    """Raise `InvalidJsonError` if a text cannot be encoded, because tokenizers need UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        surrogate = error.object[error.start]
        raise InvalidJsonError(
            f"the body holds the surrogate {surrogate!r} alone, which is half of a character. Send "
            "whole characters."
        ) from error


def _may_hold_reserved(data: bytes) -> bool:
    """Return whether decoding may yield a reserved name, written plainly or with escapes."""
    escaped = b"\\u" in data or b"\0" in data
    return escaped or any(name.encode() in data for name in RESERVED_ARGS | _TRANSFER_FIELDS)


def _check_reserved(body: Body) -> None:
    """Raise `ReservedFieldError` if the client wrote an argument that only the server may write.

    These arguments name files, and the engine relies on the server's checks of them.
    """
    pending: list[Any] = [body]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            for field in _EXTRA_ARGS_FIELDS & value.keys():
                _check_extra_args(field, value[field])
            pending.extend(v for v in value.values() if isinstance(v, dict | list))
        elif isinstance(value, list):
            pending.extend(v for v in value if isinstance(v, dict | list))


def _check_extra_args(field: str, entries: object) -> None:
    if not isinstance(entries, dict):
        return
    if field == "vllm_xargs" and (names := sorted(_TRANSFER_FIELDS & entries.keys())):
        raise ReservedFieldError(
            f"{field}.{names[0]} is a field of the request itself. Give it there.",
            param=f"{field}.{names[0]}",
        )
    if reserved := sorted(RESERVED_ARGS & entries.keys()):
        raise ReservedFieldError(
            f"{field}.{reserved[0]} is written by the server only. "
            f"Use the field '{FIELD}' of the request.",
            param=f"{field}.{reserved[0]}",
        )
