"""Read your own writes through a load balancer: wait until this server has followed the store.

Every change of an adapter or a stored composition answers with its position in the store's journal,
`X-Composer-Store: 17`. A request that carries `X-Composer-Store: >=17` is answered only once
this server has applied that change, whichever server made it.
"""

from __future__ import annotations

import asyncio
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from composer.errors import ComposerError, quoted
from server.auth.access_control import route_of
from server.errors import RequestError, UnavailableError, error_response

HEADER = "X-Composer-Store"
PATIENCE_S = 2.0
"""How long a request waits for the store position that it asks for."""

_AT_LEAST = re.compile(r">=\s*(\d{1,18})")
_BUSY_S = 0.05
"""Interval between two looks at the store while requests wait."""


class StorePosition:
    """The position in the journal up to which this server has applied changes.

    Belongs to one event loop.
    """

    def __init__(self, position: int = 0) -> None:
        self._position = position
        self._wanted = asyncio.Event()
        self._moved = asyncio.Condition()
        self._waiting = 0

    async def advance(self, position: int) -> None:
        """Note that all changes up to `position` are applied, or have failed for good."""
        async with self._moved:
            self._position = max(self._position, position)
            self._moved.notify_all()

    async def reached(self, position: int, patience_s: float = PATIENCE_S) -> bool:
        """Return whether `position` is applied, after waiting for it `patience_s` at most."""
        if self._position >= position:
            return True
        self._waiting += 1
        self._wanted.set()
        try:
            async with asyncio.timeout(patience_s), self._moved:
                await self._moved.wait_for(lambda: self._position >= position)
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
        return True

    async def pause(self, idle_s: float) -> None:
        """Wait between two looks at the store, until a request asks for one or `idle_s` is over."""
        try:
            async with asyncio.timeout(_BUSY_S if self._waiting else idle_s):
                await self._wanted.wait()
        except TimeoutError:
            pass
        self._wanted.clear()


class StorePositionGate:
    """ASGI middleware: delays a request until the store position that it asks for is applied."""

    def __init__(self, app: ASGIApp, *, position: StorePosition) -> None:
        self._app = app
        self._position = position

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        header = Headers(scope=scope).get(HEADER) if scope["type"] == "http" else None
        if header is not None:
            try:
                await self._wait(header)
            except ComposerError as error:
                await error_response(error, route_of(scope))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _wait(self, header: str) -> None:
        match = _AT_LEAST.fullmatch(header.strip())
        if match is None:
            raise RequestError(
                f"the header {HEADER} is {quoted(header)}. Send '>=N' with the N that a change of "
                "an adapter or a composition answered in this header."
            )
        if not await self._position.reached(int(match[1])):
            raise UnavailableError(
                f"this server has not followed its store to position {match[1]} within "
                f"{PATIENCE_S:g} s. Send the request again, or check that the server which "
                "answered that position uses the same --adapter-store.",
                retry_after_s=1.0,
            )


def position_header(position: int) -> dict[str, str]:
    """Return the header with the position of a client's change."""
    return {HEADER: str(position)}
