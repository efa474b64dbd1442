"""Reports of scored texts share calls to the workers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from server.engine.vllm.score_reports import ScoreReports


class Workers:
    """Two workers, of which the second has the reports; calls wait for `go`."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.go = asyncio.Event()

    async def fetch(self, ids: list[str]) -> list[Mapping[str, list[dict[str, Any]]]]:
        self.calls.append(ids)
        await self.go.wait()
        if "broken" in ids:
            raise RuntimeError("the engine has died")
        known = {name: [{"tokens": [name]}] for name in ids if name != "unknown"}
        return [{name: [] for name in ids}, known]


def test_texts_that_end_together_share_a_call() -> None:
    async def run() -> None:
        workers = Workers()
        reports = ScoreReports(workers.fetch)
        first = [asyncio.create_task(reports.take(name)) for name in ("a", "b", "unknown")]
        while not workers.calls:
            await asyncio.sleep(0)
        later = [asyncio.create_task(reports.take(name)) for name in ("c", "d", "e")]
        await asyncio.sleep(0)
        later.pop().cancel()  # its client has left
        workers.go.set()
        assert await asyncio.gather(*first, *later) == [
            *({"tokens": ["a"]}, {"tokens": ["b"]}, None),
            *({"tokens": ["c"]}, {"tokens": ["d"]}),
        ]
        assert [len(ids) for ids in workers.calls] == [3, 3]
        assert await reports.take("f") == {"tokens": ["f"]}

    asyncio.run(run())


def test_an_error_reaches_those_who_wait_and_nobody_else() -> None:
    async def run() -> None:
        workers = Workers()
        workers.go.set()
        reports = ScoreReports(workers.fetch)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="has died"):
                await reports.take("broken")
        assert await reports.take("a") == {"tokens": ["a"]}

    asyncio.run(run())
