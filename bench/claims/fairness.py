"""Plain and composed requests side by side: neither waits for the whole queue of the other.

The engine runs twelve rows. First, fifty clients keep asking for compositions of eight rows: one
runs, the others wait, and a plain request takes one of the four free rows. Then twelve clients keep
all rows busy with plain requests: a composition of eight rows runs once its patience and the
longest running answer are over.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from bench.claim import Result
from bench.machine.server import serving
from bench.measure import show, table

ROWS = 12
GANG = "base + 0.1*(chat + polite + rude + velan + arithmetic + reverse + count)"
GANGS, PLAIN_CLIENTS = 50, 12
PATIENCE_S = 3.0
SLACK_S = 1.0
PLAIN_REQUESTS = 20  # measured alone, and again beside gangs
GANG_REQUESTS = 5  # measured beside plain clients
SETTLE_S = 3.0


def measure() -> Result:
    """Return the largest delay in seconds of a plain request beside gangs, relative to alone."""
    options = ("--max-num-seqs", str(ROWS), "--gang-patience", str(PATIENCE_S))
    with serving(options=options) as client:
        return asyncio.run(_measure(str(client.base_url)))


async def _measure(url: str) -> Result:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False, limits=limits) as http:
        await _ask(http, GANG, 8)  # warm up, and fail at once if the plan does not have eight rows
        alone = [await _ask(http, "base", 24) for _ in range(PLAIN_REQUESTS)]
        async with _clients(GANGS, lambda n: _ask(http, GANG, 100 + n)):
            beside = [await _ask(http, "base", 24) for _ in range(PLAIN_REQUESTS)]
        plain: list[float] = []

        async def client(n: int) -> None:
            plain.append(await _ask(http, "base", 60 + 10 * n))

        async with _clients(PLAIN_CLIENTS, client):
            waits = [await _ask(http, GANG, 1) for _ in range(GANG_REQUESTS)]
    delay = max(beside) - statistics.median(alone)
    bound = PATIENCE_S + max(plain) + SLACK_S
    show(
        table(
            ("what", "seconds"),
            [
                ("plain request alone, median", f"{statistics.median(alone):.2f}"),
                (f"beside {GANGS} gangs of 8, median", f"{statistics.median(beside):.2f}"),
                ("longest", f"{max(beside):.2f}"),
                (f"gang of 8 beside {PLAIN_CLIENTS} clients, median", _median(waits)),
                ("longest", f"{max(waits):.2f}"),
                ("longest plain answer at that time", f"{max(plain):.2f}"),
                ("allowed wait of a gang", f"{bound:.2f}"),
            ],
        )
    )
    return Result(delay, holds=max(waits) <= bound)


async def _ask(http: httpx.AsyncClient, model: str, max_tokens: int) -> float:
    """Return seconds from the request to the complete answer of `max_tokens` tokens."""
    body: dict[str, Any] = {"model": model, "prompt": "Once upon a", "max_tokens": max_tokens}
    began = time.monotonic()
    answer = await http.post("/v1/completions", json=body | {"temperature": 0, "ignore_eos": True})
    seconds = time.monotonic() - began
    answer.raise_for_status()
    if model == GANG and answer.json()["composition"]["rows"] != 8:
        raise RuntimeError(f"the composition does not have eight rows: {answer.text}")
    return seconds


@asynccontextmanager
async def _clients(count: int, ask: Callable[[int], Awaitable[object]]) -> AsyncIterator[None]:
    """Run clients that send requests without pause, from `SETTLE_S` before the block to its end."""

    async def client(n: int) -> None:
        while True:
            await ask(n)

    tasks = [asyncio.create_task(client(n)) for n in range(count)]
    await asyncio.sleep(SETTLE_S)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [end for end in ended if not isinstance(end, asyncio.CancelledError)]
    if failed:
        raise RuntimeError(f"{len(failed)} clients failed, the first one with {failed[0]!r}")


def _median(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f}"
