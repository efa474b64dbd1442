"""Quotas of keys: requests per minute, and rows of the engine's batch at once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from composer.errors import quoted
from server.auth.keys import Key
from server.errors import RateLimitError, RequestBoundError

_ROWS_RETRY_S = 1.0


class Quotas:
    """What each key has used. Belongs to the event loop of the server."""

    def __init__(self) -> None:
        self._requests = MovingWindowRateLimiter(MemoryStorage())
        self._rows: Counter[str] = Counter()  # by the name of the key

    async def count(self, key: Key) -> None:
        """Count one request.

        Raises:
            RateLimitError: the key has sent its quota of requests within a minute.
        """
        if key.requests_per_minute is None:
            return
        item = RateLimitItemPerMinute(key.requests_per_minute)
        if await self._requests.hit(item, key.name):
            return
        reset = (await self._requests.get_window_stats(item, key.name)).reset_time
        raise RateLimitError(
            f"the key {quoted(key.name)} may send {key.requests_per_minute} requests in a minute. "
            "Send this one later.",
            retry_after_s=reset - time.time(),
        )

    @contextmanager
    def hold(self, key: Key, rows: int) -> Iterator[None]:
        """Count the rows of a request while it runs.

        Raises:
            RateLimitError: the requests of the key would exceed its quota of rows together.
            RequestBoundError: this request exceeds the quota alone.
        """
        if key.rows is None:
            yield
            return
        if rows > key.rows:
            raise RequestBoundError(
                f"this request takes {rows} rows, and the key {quoted(key.name)} may take "
                f"{key.rows} at once. Use fewer members or answers."
            )
        used = self._rows[key.name]
        if used + rows > key.rows:
            raise RateLimitError(
                f"this request takes {rows} rows, the others of the key {quoted(key.name)} take "
                f"{used} now, and it may take {key.rows} at once. Send it later.",
                retry_after_s=_ROWS_RETRY_S,
            )
        self._rows[key.name] += rows
        try:
            yield
        finally:
            self._rows[key.name] -= rows
            if not self._rows[key.name]:
                del self._rows[key.name]
