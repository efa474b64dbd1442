"""Answers and exceptions to errors; that the mapping is complete."""

from __future__ import annotations

import httpx
import pytest

from clients import BadRequest, ConnectionFailed, ServerError, StreamError, errors
from clients.client import _connection_errors, _stream_errors
from clients.client_settings import ClientSettings


def _subclasses(kind: type[Exception]) -> set[type[Exception]]:
    direct = set(kind.__subclasses__())
    return direct.union(*(_subclasses(sub) for sub in direct))


# HTTPStatusError comes from raise_for_status alone, which we do not call.
RAISED = sorted(
    _subclasses(httpx.HTTPError) - {httpx.HTTPStatusError}, key=lambda kind: kind.__name__
)


@pytest.mark.parametrize("kind", RAISED)
def test_every_exception_of_httpx_becomes_ours(kind: type[Exception]) -> None:
    with pytest.raises(ConnectionFailed, match=r"/v1"), _connection_errors(ClientSettings()):
        raise kind("reason")
    with pytest.raises(StreamError, match="reason"), _stream_errors():
        raise kind("reason")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "no", "code": 400}}', "no"),
        (b'{"error": {"code": []}}', "an error without a message"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"error": "text"}', '{"error": "text"}'),
        (b"[1]", "[1]"),
        (b"<html>bad gateway", "<html>bad gateway"),
        (b"", "HTTP 502 without a message"),
        (b"\xff", "\ufffd"),
    ],
)
def test_bodies_of_errors(body: bytes, message: str) -> None:
    error = errors.from_response(502, body)
    assert isinstance(error, ServerError)
    assert error.message == message


def test_a_code_may_be_a_number() -> None:
    error = errors.from_response(418, b'{"error": {"message": "no", "code": 400, "param": 1}}')
    assert isinstance(error, BadRequest)
    assert (error.code, error.param) == (400, None)


@pytest.mark.parametrize("status", [404, 405])
@pytest.mark.parametrize(
    "body",
    [
        '{"detail": "%s"}',
        '{"error": {"message": "%s"}}',
        '{"error": {"message": "no route: %s", "code": "route_not_found"}}',
        "<html>%s",
    ],
)
def test_a_route_that_is_not_there(status: int, body: str) -> None:
    phrase = {404: "Not Found", 405: "Method Not Allowed"}[status]
    text = (body % phrase).encode()
    error = errors.from_response(status, text, "GET http://host/models")
    assert error.message.startswith(f"GET http://host/models: {status} {phrase}: ")
    assert "base URL" in error.message
    assert error.status == status


def test_a_model_that_is_not_there_is_another_error() -> None:
    body = b'{"error": {"message": "no model x", "code": "model_not_found"}}'
    assert errors.from_response(404, body, "POST http://host/chat").message == "no model x"
