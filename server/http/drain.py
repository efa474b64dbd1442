"""Draining: count requests in flight, refuse new ones at the end, break off the last ones."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from composer.errors import ComposerError
from server.auth.access_control import KEYLESS, METRICS, is_page, route_of
from server.errors import error_events, error_response
from server.http.senders import content_type
from server.lifecycle import Lifecycle


def _is_answered(path: str) -> bool:
    """Return whether a route answers during the drain too: supervisors and operators look on."""
    return path in KEYLESS or path == METRICS or is_page(path)


class DrainMiddleware:
    """ASGI middleware: accepts, refuses or breaks off requests as the `Lifecycle` says."""

    def __init__(self, app: ASGIApp, *, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_answered(path := route_of(scope)):
            await self._app(scope, receive, send)
            return
        response = _BreakableResponse(send, path)
        if (refusal := self._lifecycle.refusal) is not None:
            await response.fail(refusal, scope, receive)
            return
        deadline = asyncio.timeout(None)
        self._lifecycle.enter(deadline)
        try:
            try:
                async with deadline:
                    await self._app(scope, receive, response)
            except TimeoutError:
                if not deadline.expired():
                    raise
            if deadline.expired() and not response.complete:
                await response.fail(self._lifecycle.broken_off, scope, receive)
        finally:
            self._lifecycle.leave(deadline)


class _BreakableResponse:
    """An ASGI `send` that tracks how far the response has come.

    The status of a stream waits for its first event. If the server ends before that, a router
    has not passed anything on and may ask another server.
    """

    def __init__(self, send: Send, path: str) -> None:
        self.complete = False
        self._send = send
        self._path = path
        self._started = False
        self._held: Message | None = None  # start of a stream without events
        self._events_sent: int | None = None  # None unless the response is a stream

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if content_type(message).startswith(b"text/event-stream"):
                self._held = message
                return
            self._started = True
        elif message["type"] == "http.response.body":
            if (start := self._held) is not None:
                self._held, self._started, self._events_sent = None, True, 0
                await self._send(start)
            self.complete = not message.get("more_body", False)
            if self._events_sent is not None:
                self._events_sent += message.get("body", b"").count(b"\n\n")
        await self._send(message)

    async def fail(self, error: ComposerError, scope: Scope, receive: Receive) -> None:
        """End the response with an error: as an event of the stream, or as a whole response.

        An incomplete response that is not a stream cannot be ended; its connection is closed.
        """
        if not self._started:
            response = error_response(error, self._path)
            response.headers["Connection"] = "close"
            await response(scope, receive, self._send)
        elif self._events_sent is not None:
            events = error_events(error, self._path, self._events_sent)
            await self._send({"type": "http.response.body", "body": events, "more_body": False})
