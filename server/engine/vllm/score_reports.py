"""What the workers have computed of scored texts, fetched in few calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

Report: TypeAlias = dict[str, Any]

Fetch: TypeAlias = Callable[[list[str]], Awaitable[list[Mapping[str, list[Report]]]]]
"""Calls `ComposerWorker.score_reports` on every worker."""


class ScoreReports:
    """Fetches reports. A call holds up the engine between two steps, so that texts which end in
    one step, or while a call runs, share the next call."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._waiting: dict[str, asyncio.Future[Report | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def take(self, report_id: str) -> Report | None:
        """Return the report of a text that has left the engine; None if it is unknown."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[report_id] = future
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, {}
            try:
                replies = await self._fetch(list(waiting))
            except Exception as error:
                for future in waiting.values():
                    if not future.done():
                        future.set_exception(error)
                continue
            for report_id, future in waiting.items():
                if not future.done():  # otherwise nobody waits for it any more
                    found = [reports for reply in replies for reports in reply.get(report_id, ())]
                    future.set_result(found[0] if found else None)
        self._task = None
