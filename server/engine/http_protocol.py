"""HTTP connections with bounds on the size and the time of headers.

uvicorn's httptools protocol stores headers and trailers without a limit of size or time, so that a
client could hold memory and sockets without sending a request.
"""

from __future__ import annotations

from asyncio import Transport
from asyncio.events import TimerHandle
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES: Final = 64 * 1024
"""Bytes that a client may send without completing headers, a piece of the body, or trailers."""

HEAD_TIMEOUT_S: Final = 30.0
"""How long a client may take for its headers, from the connection or from their first byte."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds on the size and the time of headers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pending = 0  # bytes received since the last completed part of a message
        self._in_head = True
        self._deadline: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._start_timer()
        self._pending += len(data)
        super().data_received(data)
        if self._pending > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"Headers exceed {MAX_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        self._pending = 0
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._pending = 0
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._pending = 0
        self._in_head = True
        super().on_message_complete()

    def _start_timer(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def _give_up(self) -> None:
        """Close the connection, unless a request on it is still being answered."""
        self._deadline = None
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        if cycle is not None and not cycle.response_complete:
            self._start_timer()
        else:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
