"""Around all requests: gives each an id, counts how it ended, and logs those that compose."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import metrics
from server.auth.access_control import route_of
from server.auth.keys import sender_of
from server.engine.port import Kind
from server.request_record import HEADER, RequestRecord, begin_record

logger = logging.getLogger(__name__)

_HEADER = HEADER.lower().encode()
_COUNTED = frozenset(kind.value for kind in Kind if kind.generates)
_ERROR_EVENTS = (b'data: {"error"', b'data:{"error"', b"event: error")


class ObservationMiddleware:
    """ASGI middleware, the outermost: `x-request-id` in and out, metrics, the request log."""

    def __init__(self, app: ASGIApp, *, log_requests: bool) -> None:
        """`log_requests`: whether each composed request gets a line."""
        self._app = app
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        record = begin_record(scope)
        answer = _WatchedAnswer(send, record)
        headers = [(k, v) for k, v in scope["headers"] if k.lower() != _HEADER]
        # vLLM names the request, and so its answer, after the header.
        scope = {**scope, "headers": [*headers, (_HEADER, record.id.encode())]}
        try:
            await self._app(scope, receive, answer)
        finally:
            if route_of(scope) in _COUNTED and scope["method"] == "POST":
                metrics.count_request(record, answer.outcome)
                if record.composed and self._log_requests:
                    seconds = time.monotonic() - began
                    logger.info(_line(record, sender_of(scope), answer, seconds))
            if answer.error_code is not None:
                metrics.count_error(answer.error_code)


class _WatchedAnswer:
    """An ASGI `send` that adds the id and remembers how the answer ended."""

    def __init__(self, send: Send, record: RequestRecord) -> None:
        self.status: int | None = None
        self.error_code: str | None = None
        self._send = send
        self._record = record
        self._complete = False
        self._broken = False
        self._held: Message | None = None  # the start of an error, whose body will change
        self._body = b""

    @property
    def outcome(self) -> str:
        """How it ended; one of six words."""
        if self.status is None or not self._complete:
            return "client_gone"
        if self.status >= 500:
            return "server_error"
        if self.status == 429:
            return "limited"
        if self.status >= 400:
            return "client_error"
        return "broken_off" if self._broken else "ok"

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif self._held is not None:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_error(self._held)
        else:
            body = message.get("body", b"")
            if body.startswith(_ERROR_EVENTS):
                self._broken = True
                self.error_code = self.error_code or "stream"
            self._complete = not message.get("more_body", False)
            await self._send(message)

    async def _begin(self, message: Message) -> None:
        self.status = message["status"]
        kept = [(k, v) for k, v in message["headers"] if k.lower() != _HEADER]
        message = {**message, "headers": [*kept, (_HEADER, self._record.id.encode())]}
        kind = next((v for k, v in kept if k.lower() == b"content-type"), b"")
        if message["status"] >= 400 and kind.startswith(b"application/json"):
            self._held = message
        else:
            if message["status"] >= 400:
                self.error_code = str(message["status"])
            await self._send(message)

    async def _send_error(self, start: Message) -> None:
        """Send the error with the id of the request beside it."""
        self._complete = True
        self.error_code = str(self.status)
        body = self._body
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            self.error_code = _code(answer, self.error_code)
            told = {**answer, "request_id": self._record.id}
            body = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
        headers = [(k, v) for k, v in start["headers"] if k.lower() != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({**start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _code(answer: Mapping[str, Any], default: str) -> str:
    """The class of an error: our code, or Anthropic's type; else its status."""
    error = answer.get("error")
    if not isinstance(error, dict):
        return default
    code = error.get("code", error.get("type"))
    return code if isinstance(code, str) else default


def _line(record: RequestRecord, sender: str, answer: _WatchedAnswer, seconds: float) -> str:
    """One line, `key=value`; values with spaces are JSON strings."""
    told = {
        "id": record.id,
        "key": sender,
        "composition": record.composition,
        "recipe": record.recipe,
        "plan": record.plan,
        "rows": record.rows,
        "prompt_tokens": record.prompt_tokens,
        "answer_tokens": record.answer_tokens,
        "seconds": f"{seconds:.3f}",
        "status": answer.status,
        "outcome": answer.outcome,
    }
    return "request " + " ".join(f"{name}={_value(value)}" for name, value in told.items())


def _value(value: object) -> str:
    if value is None:
        return "-"
    text = str(value)
    plain = text.isascii() and text.isprintable() and not set(text) & set(' "=')
    return text if plain and text else json.dumps(text)
