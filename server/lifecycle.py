"""From the first request to the exit status: draining, a second signal, the death of the engine.

The first SIGTERM or SIGINT begins the drain: new requests are refused, and requests in flight may
finish within a bounded time. Streams that are still open then end with an error event. A second
signal skips the wait. When the engine dies, requests in flight fail and the server exits, so that
its supervisor restarts it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from server.errors import UnavailableError

logger = logging.getLogger(__name__)

ENGINE_DIED: Final = 70
"""Exit status when the engine has died: EX_SOFTWARE of sysexits.h."""

DEATH_S: Final = 2.0
"""How long requests in flight may take to fail after the death of the engine."""

FAREWELL_S: Final = 2.0
"""How long clients may take to read the error that ends their stream."""

LAST_RESORT_S: Final = 20.0
"""How long the exit may take after that; threads that wait for a slow source cannot be stopped."""

HURRY_S: Final = 1.0
"""How long the exit may take after a signal during the stop of the engine."""

_RETRY_AFTER_S = 5.0

Condition = Callable[[], str | None]
"""Returns the reason why the server is not ready, or None."""


class Phase(StrEnum):
    """What the server does with requests."""

    SERVING = "serving"
    DRAINING = "draining"
    ENGINE_DEAD = "engine dead"


class Lifecycle:
    """The state of one server once it is loaded. Belongs to its event loop."""

    def __init__(self, drain_s: float) -> None:
        """`drain_s`: how long requests in flight may take to finish after the first signal."""
        self.phase = Phase.SERVING
        self.exit_status = 0
        self.conditions: list[Condition] = []
        """Further conditions of `/ready`."""

        self._drain_s = drain_s
        self._in_flight: set[asyncio.Timeout] = set()
        self._over = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    # ---- events

    def signalled(self, signum: int) -> None:
        """Begin to drain; at the second signal, end."""
        if self.phase is Phase.SERVING:
            self.phase = Phase.DRAINING
            logger.info(
                "%s: stopping within %g s, %d requests are in flight; a second signal ends them",
                signal.Signals(signum).name,
                self._drain_s,
                len(self._in_flight),
            )
            self._end_after(self._drain_s)
        else:
            if self.phase is Phase.DRAINING:
                self.exit_status = 128 + signum
            logger.warning("%s: ending at once", signal.Signals(signum).name)
            if self._over.is_set():  # the engine is being stopped
                self.exit_within(HURRY_S)
            self._over.set()

    def engine_died(self) -> None:
        """Refuse all requests, and end once the requests in flight have failed."""
        if self.phase is Phase.ENGINE_DEAD:
            return
        self.phase = Phase.ENGINE_DEAD
        self.exit_status = ENGINE_DIED
        logger.error("The engine has died: %d requests in flight fail", len(self._in_flight))
        self._end_after(DEATH_S)

    async def over(self) -> None:
        """Return when the server is to exit and no request is in flight."""
        await self._over.wait()
        if self._in_flight:
            logger.warning("Breaking off %d requests", len(self._in_flight))
        now = asyncio.get_running_loop().time()
        for deadline in self._in_flight:
            deadline.reschedule(now)
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self._idle.wait()
        except TimeoutError:
            logger.warning("%d clients do not read their answers", len(self._in_flight))

    def exit_within(self, seconds: float) -> None:
        """Kill the process if it has not ended after `seconds`, whatever still runs."""

        def abandon() -> None:
            logger.warning("Not everything ends in time: exiting without it")
            logging.shutdown()
            os._exit(self.exit_status)

        timer = threading.Timer(seconds, abandon)
        timer.daemon = True
        timer.start()

    def _end_after(self, seconds: float) -> None:
        if not self._in_flight:
            self._over.set()
        asyncio.get_running_loop().call_later(seconds, self._over.set)

    # ---- requests

    @property
    def refusal(self) -> UnavailableError | None:
        """The error that answers new requests; None while the server accepts them."""
        if self.phase is Phase.SERVING:
            return None
        if self.phase is Phase.ENGINE_DEAD:
            reason = "its engine has died, and it is about to exit"
        else:
            reason = "it is about to exit"
        return UnavailableError(
            f"this server does not accept requests any more: {reason}. Send the request again, to "
            "another replica if there is one.",
            retry_after_s=_RETRY_AFTER_S,
        )

    @property
    def broken_off(self) -> UnavailableError:
        """The error that ends a response which cannot be completed."""
        dead = self.phase is Phase.ENGINE_DEAD
        reason = "its engine has died" if dead else "it is stopping"
        return UnavailableError(
            f"the server broke the answer off: {reason}. Send the request again.",
            retry_after_s=_RETRY_AFTER_S,
        )

    def problems(self) -> list[str]:
        """Return the reasons why the server is not ready; empty if it is."""
        if self.phase is not Phase.SERVING:
            return [str(self.phase)]
        return [problem for condition in self.conditions if (problem := condition()) is not None]

    @property
    def requests_in_flight(self) -> int:
        """The number of requests whose response is not complete."""
        return len(self._in_flight)

    def enter(self, deadline: asyncio.Timeout) -> None:
        """Note that a request begins; `deadline` can break it off."""
        self._in_flight.add(deadline)
        self._idle.clear()

    def leave(self, deadline: asyncio.Timeout) -> None:
        """Note that a request has ended."""
        self._in_flight.discard(deadline)
        if not self._in_flight:
            self._idle.set()
            if self.phase is not Phase.SERVING:
                self._over.set()
