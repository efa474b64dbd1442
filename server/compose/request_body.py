"""Bodies of requests: received, decoded and checked before anything is done with them."""

from __future__ import annotations

import json
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.types import Receive

from composer.engine_plan import RESERVED_ARGS
from server.compose.access import FIELD
from server.compose.request_bounds import check_bounds
from server.engine.port import Body
from server.errors import BodyTooLargeError, InvalidJsonError, ReservedFieldError

_CARRIERS = frozenset({"vllm_xargs", "extra_args"})
"""Fields whose entries reach the engine as `SamplingParams.extra_args`, on any of vLLM's routes."""

_FIELDS = frozenset({"kv_transfer_params", "ec_transfer_params"})
"""Fields of requests that vLLM itself puts among the extra arguments, once it has read them."""

_QUICK_BYTES = 64 * 1024
"""A body up to this size is read within a millisecond or so."""


class ClientGoneError(Exception):
    """The client disconnected before its request was complete."""


async def receive_body(receive: Receive, most: int) -> bytes:
    """The whole body.

    Args:
        receive: of the request.
        most: how many bytes it may have.

    Raises:
        BodyTooLargeError: it has more; raised as soon as the first of them is there.
        ClientGoneError: it will not be complete.
    """
    data = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        data += message.get("body", b"")
        if len(data) > most:
            raise BodyTooLargeError(
                f"the body has more than {most} bytes. Send less, or start the server with a "
                "larger --max-body-mib."
            )
        if not message.get("more_body", False):
            return bytes(data)


async def read_body(data: bytes, *, required: bool) -> Body | None:
    """As `parse_body`; beside the event loop where it takes long."""
    if len(data) <= _QUICK_BYTES:
        return parse_body(data, required=required)
    return await run_in_threadpool(parse_body, data, required=required)


def parse_body(data: bytes, *, required: bool) -> Body | None:
    """The JSON object of a request.

    None for anything else, which vLLM answers as it sees fit; `required` where the route takes
    nothing else.

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
