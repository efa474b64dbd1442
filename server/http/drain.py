"""In front of all requests: knows those in flight, refuses new ones at the end, breaks off."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from composer.errors import ComposerError
from server.auth.access_control import KEYLESS, METRICS, route_of
from server.errors import error_events, error_response
from server.lifecycle import Lifecycle

_ALWAYS_ANSWERED = KEYLESS | {METRICS}


class DrainMiddleware:
    """ASGI middleware: does with each request what the `lifecycle` says."""

    def __init__(self, app: ASGIApp, *, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (path := route_of(scope)) in _ALWAYS_ANSWERED:
            await self._app(scope, receive, send)
            return
        answer = _BreakableAnswer(send, path)
        if (refusal := self._lifecycle.refusal) is not None:
            await answer.fail(refusal, scope, receive)
            return
        deadline = asyncio.timeout(None)
        self._lifecycle.enter(deadline)
        try:
            try:
                async with deadline:
                    await self._app(scope, receive, answer)
            except TimeoutError:
                if not deadline.expired():
                    raise
            if deadline.expired() and not answer.complete:
                await answer.fail(self._lifecycle.broken_off, scope, receive)
        finally:
            self._lifecycle.leave(deadline)


class _BreakableAnswer:
    """An ASGI `send` that knows how far the answer has come."""

    def __init__(self, send: Send, path: str) -> None:
        self.complete = False
        self._send = send
        self._path = path
        self._started = False
        self._events: int | None = None  # sent so far; None where the answer is not a stream

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            kind = next((v for k, v in message["headers"] if k.lower() == b"content-type"), b"")
            if kind.startswith(b"text/event-stream"):
                self._events = 0
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
            if self._events is not None:
                self._events += message.get("body", b"").count(b"\n\n")
        await self._send(message)

    async def fail(self, error: ComposerError, scope: Scope, receive: Receive) -> None:
        """End the answer with an error: an event of the stream, or a whole answer.

        Half an answer that is no stream is left as it is, and the connection closed.
        """
        if not self._started:
            response = error_response(error, self._path)
            response.headers["Connection"] = "close"
            await response(scope, receive, self._send)
        elif self._events is not None:
            events = error_events(error, self._path, self._events)
            await self._send({"type": "http.response.body", "body": events, "more_body": False})
