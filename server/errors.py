"""Errors as HTTP responses: one table of statuses, and the formats of OpenAI and Anthropic."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import JSONResponse

from adapters import (
    AdapterError,
    AdapterNotFoundError,
    CompositionLimitError,
    CompositionNotFoundError,
    CompositionOwnerError,
    MergeError,
    NameTakenError,
    PolicyError,
    ProfileError,
    SourceError,
    SourceUnavailableError,
    StoreFullError,
    StoreReadOnlyError,
    VersionConflictError,
)
from composer.errors import (
    ComposerError,
    CompositionError,
    EngineFault,
    UnknownModelError,
)


class RequestError(ComposerError):
    """The request is invalid for another reason than its composition."""

    code = "invalid_request"


class InvalidJsonError(RequestError):
    """The body is not JSON, or not the JSON that the route takes."""

    code = "invalid_json"


class UnreadableRequestError(RequestError):
    """vLLM fails on the structure of the request without a message of its own."""

    code = "unreadable_request"


class BodyTooLargeError(RequestError):
    """The body exceeds the limit of the server."""

    code = "body_too_large"


class RequestBoundError(RequestError):
    """A value of the request exceeds its bound."""

    code = "request_too_large"


class ReservedFieldError(RequestError):
    """The request has a field that only the server may write."""

    code = "reserved_field"


class CompositionLostError(RequestError):
    """The client expects a composed answer, and the request composes nothing."""

    code = "composition_lost"


class AdapterForbiddenError(RequestError):
    """The policy of an adapter forbids the request."""

    code = "adapter_not_allowed"


class AdapterUnavailableError(ComposerError):
    """A served adapter does not load, or its files were changed after it was published."""

    code = "adapter_unavailable"


class UnauthorizedError(RequestError):
    """The request has no key, or an unknown one."""

    code = "invalid_api_key"


class RoleError(RequestError):
    """The key of the request lacks the role that the route requires."""

    code = "missing_role"


class RouteNotFoundError(RequestError):
    """The server does not have this route."""

    code = "route_not_found"


class RetryLaterError(RequestError):
    """The request may succeed later; `retry_after_s` says when to send it again."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimitError(RetryLaterError):
    """The key has used its quota."""

    code = "rate_limit_exceeded"


class UnavailableError(RetryLaterError):
    """The server cannot take the request now."""

    code = "unavailable"


STATUS: tuple[tuple[type[ComposerError], int], ...] = (
    (UnauthorizedError, 401),
    (AdapterForbiddenError, 403),
    (RoleError, 403),
    (CompositionOwnerError, 403),
    (RouteNotFoundError, 404),
    (RateLimitError, 429),
    (UnavailableError, 503),
    (UnknownModelError, 404),
    (AdapterNotFoundError, 404),
    (CompositionNotFoundError, 404),
    (NameTakenError, 409),
    (CompositionLimitError, 409),
    (VersionConflictError, 409),
    (BodyTooLargeError, 413),
    (CompositionError, 400),
    (RequestError, 400),
    (AdapterError, 400),
    (PolicyError, 400),
    (ProfileError, 400),
    (SourceError, 400),
    (MergeError, 400),
    (SourceUnavailableError, 502),
    (AdapterUnavailableError, 503),
    (StoreFullError, 507),
    (StoreReadOnlyError, 503),
    (EngineFault, 500),
    (ComposerError, 500),
)
"""HTTP status by class of error; the first match counts."""


def status_of(error: ComposerError) -> int:
    """Return the HTTP status of an error."""
    return status_of_type(type(error))


def status_of_type(kind: type[ComposerError]) -> int:
    """Return the HTTP status of a class of errors."""
    return next(status for base, status in STATUS if issubclass(kind, base))


def error_body(error: ComposerError) -> dict[str, Any]:
    """Return the body of an error in OpenAI's format."""
    kind = "invalid_request_error" if status_of(error) < 500 else "server_error"
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code,
        }
    }


_MESSAGES = "/v1/messages"
_RESPONSES = "/v1/responses"
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_response(error: ComposerError, path: str) -> JSONResponse:
    """Return the response to a failed request, in the format of its route.

    Args:
        error: the error.
        path: path of the request, without the prefix of a proxy.
    """
    status = status_of(error)
    body = anthropic_error(status, error.message) if is_anthropic(path) else error_body(error)
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, RetryLaterError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return JSONResponse(body, status_code=status, headers=headers)


def error_events(error: ComposerError, path: str, sent: int | None = None) -> bytes:
    """Return the server-sent events that end a failed stream, in the format of its route.

    Args:
        error: the error.
        path: path of the request, without the prefix of a proxy.
        sent: number of events that the client has received, if it is known.
    """
    body: dict[str, Any] = error_body(error)
    name, end = "", "data: [DONE]\n\n"
    if is_anthropic(path):
        body, name, end = anthropic_error(status_of(error), error.message), "event: error\n", ""
    elif path == _RESPONSES:
        details = {"code": error.code, "message": error.message, "param": error.param}
        number = {} if sent is None else {"sequence_number": sent}
        body, name, end = {"type": "error", **details, **number}, "event: error\n", ""
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return f"{name}data: {data}\n\n{end}".encode()


def is_anthropic(path: str) -> bool:
    """Return whether a route uses Anthropic's protocol."""
    return path == _MESSAGES or path.startswith(f"{_MESSAGES}/")


def anthropic_error(status: int, message: str) -> dict[str, Any]:
    """Return the body of an error in Anthropic's format."""
    default = "invalid_request_error" if status < 500 else "api_error"
    kind = _ANTHROPIC_TYPES.get(status, default)
    return {"type": "error", "error": {"type": kind, "message": message}}
