"""Threads for work on the store, separate from those that requests need.

Publishing fetches, computes and inspects for seconds or minutes, and a change of the journal waits
for its lock, which another server may hold. Each has its own threads and a bounded queue, so that
neither delays requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from server.errors import UnavailableError

_T = TypeVar("_T")


class BoundedThreads:
    """A few threads with a bounded queue."""

    def __init__(self, what: str, threads: int, waiting: int, retry_after_s: float) -> None:
        """`what` names the work in the plural, for the message of a refusal."""
        self._what = what
        self._limit = threads + waiting
        self._retry_after_s = retry_after_s
        self._limiter = CapacityLimiter(threads)
        self._admitted = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count one piece of work until the end of the block.

        Raises:
            UnavailableError: the queue is full.
        """
        if self._admitted >= self._limit:
            raise UnavailableError(
                f"{self._admitted} {self._what} are running or waiting. Send this one later.",
                retry_after_s=self._retry_after_s,
            )
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def run(self, work: Callable[[], _T]) -> _T:
        """Run admitted work in one of the threads, once one is free."""
        return await to_thread.run_sync(work, limiter=self._limiter)

    async def admit(self, work: Callable[[], _T]) -> _T:
        """Admit work and run it. Raises `UnavailableError`."""
        with self.admitted():
            return await self.run(work)


class StoreThreads:
    """The threads of one server."""

    def __init__(self) -> None:
        self.publishing = BoundedThreads("publications", 4, 16, retry_after_s=5.0)
        """Fetching, computing and inspecting adapters."""

        self.changes = BoundedThreads("changes of the store", 4, 64, retry_after_s=1.0)
        """Appending to the journal, and making folders under its lock."""
