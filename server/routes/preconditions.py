"""Headers of requests that change something: the version they expect; and who sends them."""

from __future__ import annotations

from fastapi import Request

from composer.errors import quoted
from server.auth.keys import key_of
from server.errors import RequestError


def expected_version(request: Request) -> int | None:
    """Return the version that `If-Match` or `If-None-Match` demands; None for any version.

    Raises:
        RequestError: a header has another form.
    """
    match, none_match = (request.headers.get(name) for name in ("if-match", "if-none-match"))
    if none_match is not None:
        if none_match.strip() == "*" and match is None:
            return 0
        raise RequestError(
            f"If-None-Match is {quoted(none_match)}; send * alone, to "
            "store only what is not there yet."
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
    """Return the header whose value `If-Match` takes."""
    return {"ETag": f'"{number}"'}


def actor_of(request: Request) -> str:
    """Return who the history names: the key, and the address that the request came from."""
    name = key_of(request.scope).name
    return f"{name} at {request.client.host}" if request.client else name
