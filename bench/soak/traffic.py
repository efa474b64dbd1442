"""All clients at once, the swaps, and the record of what they saw."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx

from bench.soak.cases import ALIAS, BAD, SOURCES, Case
from bench.soak.client import PATIENCE_S, Answer, RefusedError, ask, listen
from bench.soak.reference import Reference, publish, texts

CLIENTS = 64
SWAP_S = 1.0
MAX_DETAILS = 30
"""Number of faults whose details a record keeps."""


@dataclass
class Record:
    """Answers and faults by kind, and details of the first faults."""

    answers: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)

    def fault(self, kind: str, detail: str) -> None:
        """Count a fault."""
        self.faults[kind] += 1
        if len(self.details) < MAX_DETAILS:
            self.details.append(f"{kind}: {detail}")


async def traffic(
    http: httpx.AsyncClient, known: Mapping[Case, Reference], seconds: float, key: str
) -> Record:
    """Run `CLIENTS` clients for `seconds`, while `ALIAS` is replaced every `SWAP_S`."""
    record = Record()
    end = time.monotonic() + seconds
    clients = [_client(http, known, end, random.Random(n), record) for n in range(CLIENTS)]
    await asyncio.gather(_swap(http, end, key, record), *clients)
    return record


async def _swap(http: httpx.AsyncClient, end: float, key: str, record: Record) -> None:
    number = 0
    while time.monotonic() < end:
        try:
            await publish(http, SOURCES[number % 2], key)
            record.answers["swaps"] += 1
        except httpx.HTTPError as error:
            record.fault("5xx", f"a swap failed: {error!r}")
        number += 1
        await asyncio.sleep(SWAP_S)


async def _client(
    http: httpx.AsyncClient,
    known: Mapping[Case, Reference],
    end: float,
    rng: random.Random,
    record: Record,
) -> None:
    cases = list(known)
    manners = ("whole", "stream", "leaves", "slow", "bad")
    while time.monotonic() < end:
        case, manner = rng.choice(cases), rng.choices(manners, (45, 30, 12, 5, 8))[0]
        what = f"{case.name} ({manner})"
        try:
            async with asyncio.timeout(PATIENCE_S):
                if manner == "bad":
                    await _refused(http, rng, record)
                    continue
                answer = await _answer(http, case, manner, rng)
        except TimeoutError:
            record.fault("stuck", f"{what}: no answer in {PATIENCE_S:.0f} s")
        except RefusedError as error:
            kind = "5xx" if error.status >= 500 else "refused"
            record.fault(kind, f"{what}: {error}")
        except (httpx.HTTPError, ValueError) as error:
            record.fault("connection lost", f"{what}: {error!r}")
        else:
            record.answers[manner] += 1
            if wrong := mistake(case, answer, known[case]):
                record.fault("wrong", f"{what}: {wrong}")


async def _answer(http: httpx.AsyncClient, case: Case, manner: str, rng: random.Random) -> Answer:
    if manner == "whole":
        return await ask(http, case.path, case.body)
    if manner == "slow":
        return await listen(http, case, pause_s=rng.uniform(0.2, 1.0))
    return await listen(
        http, case, leave_after=rng.randrange(1, 12) if manner == "leaves" else None
    )


async def _refused(http: httpx.AsyncClient, rng: random.Random, record: Record) -> None:
    path, body = rng.choice(BAD)
    response = await http.post(path, json=body)
    record.answers["bad"] += 1
    if response.status_code >= 500:
        record.fault("5xx", f"{body}: {response.status_code} {response.text[:200]}")
    elif response.status_code < 400:
        record.fault("wrong", f"{body} was answered: {response.text[:200]}")


def mistake(case: Case, answer: Answer, known: Reference) -> str | None:
    """Return what is wrong with an answer; an aborted one must begin as the right one does."""
    digest = answer.digests.get(ALIAS) if case.swaps else None
    if case.swaps and digest is None and not answer.whole:
        return None  # the stream had not yet reported its generation
    if digest not in known:
        return f"computed by {digest}, which was never published as {ALIAS}"
    expected, got = known[digest], texts(answer)
    if answer.whole:
        return None if got == expected else f"{got} instead of {expected}"
    begins = all(
        text.startswith(answer.texts[index])
        for index, text in enumerate(expected)
        if index in answer.texts
    )
    return None if begins else f"{answer.texts} does not begin {expected}"
