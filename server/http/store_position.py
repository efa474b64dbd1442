"""Read your writes through a balancer: wait until this server has followed the store far enough.

Every change of an adapter or a stored composition answers with its position in the store's journal,
`X-Composer-Store: 17`. A request that carries `X-Composer-Store: >=17` is answered by a server that
knows that change, whichever server made it.
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
"""How long a request waits for the store to be followed."""

_AT_LEAST = re.compile(r">=\s*(\d{1,18})")
_BUSY_S = 0.05
"""How often the store is looked at while requests wait."""


class StorePosition:
    """The position up to which this server serves what the journal says. Of one event loop."""

    def __init__(self, position: int = 0) -> None:
        self._position = position
        self._wanted = asyncio.Event()
        self._moved = asyncio.Condition()
        self._waiting = 0

    async def advance(self, position: int) -> None:
        """All changes up to `position` are served now, or known to fail."""
        async with self._moved:
            self._position = max(self._position, position)
            self._moved.notify_all()

    async def reached(self, position: int, patience_s: float = PATIENCE_S) -> bool:
        """Whether the store is followed that far, after `patience_s` at the latest."""
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
        """Wait between two looks at the store: until a request asks for one, or `idle_s`."""
        try:
            async with asyncio.timeout(_BUSY_S if self._waiting else idle_s):
                await self._wanted.wait()
        except TimeoutError:
            pass
        self._wanted.clear()


class StorePositionGate:
    """ASGI middleware: lets a request pass when the store is followed as far as it asks for."""

    def __init__(self, app: ASGIApp, *, position: StorePosition) -> None:
        self._app = app
        self._position = position

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = Headers(scope=scope).get(HEADER) if scope["type"] == "http" else None
        if asked is not None:
            try:
                await self._check(asked)
            except ComposerError as error:
                await error_response(error, route_of(scope))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _check(self, asked: str) -> None:
        match = _AT_LEAST.fullmatch(asked.strip())
        if match is None:
            raise RequestError(
                f"the header {HEADER} is {quoted(asked)}. Send '>=N' with the N that a change of "
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
    """The header that tells a client where its change stands."""
    return {HEADER: str(position)}
