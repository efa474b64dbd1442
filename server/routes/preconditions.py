"""What requests that change something say besides: the version they expect, and who they are."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request

from composer.errors import quoted
from server.auth.keys import key_of
from server.errors import InvalidJsonError, RequestError


def expected_version(request: Request) -> int | None:
    """What `If-Match` and `If-None-Match` say the version must be; None: whatever it is.

    Raises:
        ServerError: a header says something else.
    """
    match, none_match = (request.headers.get(name) for name in ("if-match", "if-none-match"))
    if none_match is not None:
        if none_match.strip() == "*" and match is None:
            return 0
        raise RequestError(
            f"If-None-Match is {quoted(none_match)}; only * is understood, alone: store only "
            "what is not there yet."
        )
    if match is None:
        return None
    number = match.strip().removeprefix("W/").strip('"')
    if not number.isdecimal() or len(number) > 18:
        raise RequestError(
            f'If-Match is {quoted(match)}, not a version like "3". Take it from the ETag of a GET.'
        )
    return int(number)


def etag(number: int) -> dict[str, str]:
    """The header that `If-Match` takes."""
    return {"ETag": f'"{number}"'}


def actor_of(request: Request) -> str:
    """Who the audit log names: the key, and the address that the request came from."""
    name = key_of(request.scope).name
    return f"{name} at {request.client.host}" if request.client else name


async def json_object(request: Request) -> dict[str, Any]:
    """The JSON object in the body. Raises `InvalidJsonError`."""
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise InvalidJsonError(f"the body is not JSON: {error}. Send one JSON object.") from error
    if not isinstance(body, dict):
        raise InvalidJsonError("the body is not a JSON object. Send one.")
    return body


async def rollback_version(request: Request) -> int | None:
    """The version that a rollback names; None: the one before. Raises `InvalidJsonError`."""
    body = await json_object(request) if await request.body() else {}
    to = body.pop("to", None)
    if body or not (to is None or (isinstance(to, int) and not isinstance(to, bool))):
        raise InvalidJsonError('the body is neither empty nor like {"to": 3}. Name a version.')
    return to
