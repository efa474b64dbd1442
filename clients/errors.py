"""Every error that a call can raise.

ClientError
  ConnectionFailed        no connection, a broken connection, or a timeout
  InvalidResponse         an answer that does not follow the API
    CompositionLost       an answer without a composition, to a request with one
  ApiError                the server answered with an error
    BadRequest            400, 413, 422 and other mistakes in the request
    Forbidden             401, 403
    NotFound              404
    Conflict              409
    RateLimited           429
    ServerError           5xx
    StreamError           an error event, or a break, after a stream began
"""

from __future__ import annotations

import json
from typing import TypeVar


class ClientError(Exception):
    """Base of all errors of this package; `message` is a sentence for people."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConnectionFailed(ClientError):
    """The server cannot be reached, or stopped answering."""


class InvalidResponse(ClientError):
    """The answer does not follow the API; the base URL may be that of another service."""


class CompositionLost(InvalidResponse):
    """The request asked for a composition, and the answer does not report one."""


class ApiError(ClientError):
    """The server's error object. `status` is the HTTP status, or None inside a stream."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        param: str | None = None,
        code: str | int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


class BadRequest(ApiError):
    """The request is wrong; repeating it gives the same answer."""


class Forbidden(ApiError):
    """The API key is missing, or may not do this."""


class NotFound(ApiError):
    """The model, the composition or the route does not exist."""


class Conflict(ApiError):
    """The request contradicts what the server holds."""


class RateLimited(ApiError):
    """Too many requests; wait, then repeat."""


class ServerError(ApiError):
    """The server failed."""


class StreamError(ApiError):
    """A stream ended with an error after its first byte."""


E = TypeVar("E", bound=ApiError)

_BY_STATUS: dict[int, type[ApiError]] = {
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: RateLimited,
}

_NO_ROUTE_CODE = "route_not_found"
_NO_ROUTE = {404: "Not Found", 405: "Method Not Allowed"}
"""What frameworks answer for a route that they do not have."""


def from_response(status: int, body: bytes, request: str = "the request") -> ApiError:
    """Return the error that an HTTP answer with `status` >= 400 stands for.

    `request` is the method and the URL, for an answer that comes from another server.
    """
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else BadRequest)
    fields = _error_object(body)
    if status in _NO_ROUTE and _names_no_route(fields, _NO_ROUTE[status]):
        hint = (
            f"{request}: {status} {_NO_ROUTE[status]}: the server there has no such route. Check "
            "that the base URL (COMPOSER_BASE_URL or --base-url) is that of a composer server, "
            "and ends in /v1"
        )
        return _build(kind, {**(fields or {}), "message": hint}, status)
    if fields is None:
        text = body.decode(errors="replace").strip()[:500]
        return kind(text or f"HTTP {status} without a message", status=status)
    return _build(kind, fields, status)


def from_event(value: object) -> StreamError | None:
    """Return the error in an event of a stream, or None if the event is not an error."""
    if not isinstance(value, dict) or not isinstance(value.get("error"), dict):
        return None
    return _build(StreamError, value["error"], None)


def _names_no_route(fields: dict[str, object] | None, phrase: str) -> bool:
    """Return whether an error is about the route, not about a model or an adapter."""
    return fields is None or fields.get("message") == phrase or fields.get("code") == _NO_ROUTE_CODE


def _error_object(body: bytes) -> dict[str, object] | None:
    """Read OpenAI's {"error": {...}} or FastAPI's {"detail": ...}; None for another body."""
    try:
        value = json.loads(body)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    error = value.get("error")
    if isinstance(error, dict):
        return error
    if "detail" in value:
        return {"message": str(value["detail"])}
    return None


def _build(kind: type[E], fields: dict[str, object], status: int | None) -> E:
    param, code = fields.get("param"), fields.get("code")
    return kind(
        str(fields.get("message") or "an error without a message"),
        status=status,
        param=param if isinstance(param, str) else None,
        code=code if isinstance(code, str | int) else None,
    )
