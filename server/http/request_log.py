"""Around all requests: assign an id, count outcomes, and log requests that compose."""

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
from server.http.senders import content_type, dump, send_whole
from server.request_record import HEADER, RequestRecord, ScoringKind, begin_record

logger = logging.getLogger(__name__)

_HEADER = HEADER.lower().encode()
_COUNTED = frozenset(kind.value for kind in Kind if kind.generates)
_SCORING = frozenset(kind.value for kind in ScoringKind)
_ERROR_EVENTS = (b'data: {"error"', b'data:{"error"', b"event: error")


class ObservationMiddleware:
    """ASGI middleware, the outermost: `x-request-id` in and out, metrics, the request log."""

    def __init__(self, app: ASGIApp, *, log_requests: bool) -> None:
        """`log_requests`: whether to log each composed request."""
        self._app = app
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        record = begin_record(scope)
        response = _ObservedResponse(send, record)
        headers = [(k, v) for k, v in scope["headers"] if k.lower() != _HEADER]
        # vLLM takes the id of the request, and of its response, from this header.
        scope = {**scope, "headers": [*headers, (_HEADER, record.id.encode())]}
        try:
            await self._app(scope, receive, response)
        finally:
            seconds, route = time.monotonic() - began, route_of(scope)
            logged = False
            if scope["method"] == "POST" and route in _COUNTED:
                metrics.count_request(record, response.outcome)
                logged = record.composed
            elif scope["method"] == "POST" and route in _SCORING:
                metrics.count_scoring(ScoringKind(route), response.outcome, seconds)
                logged = True
            if logged and self._log_requests:
                logger.info(_line(record, sender_of(scope), response, seconds))
            if response.error_code is not None:
                metrics.count_error(response.error_code)


class _ObservedResponse:
    """An ASGI `send` that adds the request id and observes how the response ends."""

    def __init__(self, send: Send, record: RequestRecord) -> None:
        self.status: int | None = None
        self.error_code: str | None = None
        self._send = send
        self._record = record
        self._complete = False
        self._broken_off = False
        self._start: Message | None = None  # of an error, held because its body will change
        self._body = b""

    @property
    def outcome(self) -> str:
        """How the request ended, one of six words."""
        if self.status is None or not self._complete:
            return "client_gone"
        if self.status >= 500:
            return "server_error"
        if self.status == 429:
            return "limited"
        if self.status >= 400:
            return "client_error"
        return "broken_off" if self._broken_off else "ok"

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif self._start is not None:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_error(self._start)
        else:
            body = message.get("body", b"")
            if body.startswith(_ERROR_EVENTS):
                self._broken_off = True
                self.error_code = self.error_code or "stream"
            self._complete = not message.get("more_body", False)
            await self._send(message)

    async def _begin(self, message: Message) -> None:
        self.status = message["status"]
        kept = [(k, v) for k, v in message["headers"] if k.lower() != _HEADER]
        message = {**message, "headers": [*kept, (_HEADER, self._record.id.encode())]}
        is_json = content_type(message).startswith(b"application/json")
        if message["status"] >= 400 and is_json:
            self._start = message
        else:
            if message["status"] >= 400:
                self.error_code = str(message["status"])
            await self._send(message)

    async def _send_error(self, start: Message) -> None:
        """Send the error with the request id in its body."""
        self._complete = True
        self.error_code = str(self.status)
        body = self._body
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            self.error_code = _code(answer, self.error_code)
            body = dump({**answer, "request_id": self._record.id})
        await send_whole(self._send, start, body)


def _code(answer: Mapping[str, Any], default: str) -> str:
    """Return the code of an error, or the type of an Anthropic error, or `default`."""
    error = answer.get("error")
    if not isinstance(error, dict):
        return default
    code = error.get("code", error.get("type"))
    return code if isinstance(code, str) else default


def _line(record: RequestRecord, sender: str, response: _ObservedResponse, seconds: float) -> str:
    """Return the log line: `key=value` pairs; values with spaces are JSON strings."""
    fields = {
        "id": record.id,
        "key": sender,
        "composition": record.composition,
        "recipe": record.recipe,
        "plan": record.formula,
        "rows": record.rows,
        "prompt_tokens": record.prompt_tokens,
        "answer_tokens": record.answer_tokens,
        **({"texts": record.texts, "scored_tokens": record.scored_tokens} if record.texts else {}),
        "seconds": f"{seconds:.3f}",
        "status": response.status,
        "outcome": response.outcome,
    }
    return "request " + " ".join(f"{name}={_value(value)}" for name, value in fields.items())


def _value(value: object) -> str:
    if value is None:
        return "-"
    text = str(value)
    plain = text.isascii() and text.isprintable() and not set(text) & set(' "=')
    return text if plain and text else json.dumps(text)
