"""The answer to every case when it is the only request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import httpx

from bench.soak.cases import ALIAS, CHAT, SOURCES, Case
from bench.soak.client import Answer, RefusedError, ask

CLEAR = 0.01
"""Smallest gap between the log-probabilities of the two likeliest tokens. Cases with a smaller one
are left out: in a batch, sums are computed in another order, and the other token may win."""

Reference = Mapping[str | None, tuple[str, ...]]
"""Texts of a case by the digest of `ALIAS`; None if the case does not use `ALIAS`."""


async def publish(http: httpx.AsyncClient, source: str, key: str) -> str:
    """Point `ALIAS` at an adapter of the zoo; return its digest."""
    response = await http.put(
        f"/v1/adapters/{ALIAS}",
        json={"source": source},
        headers={"Authorization": f"Bearer {key}"},
    )
    response.raise_for_status()
    digest: str = response.json()["digest"]
    return digest


async def references(
    http: httpx.AsyncClient, cases: Iterable[Case], key: str
) -> dict[Case, Reference]:
    """Answer every case alone; cases that use `ALIAS` under both of its generations.

    Raises:
        RuntimeError: the server refused a case.
    """
    ordered = list(cases)
    answers: dict[int, dict[str | None, tuple[str, ...]]] = {}
    unclear: set[int] = set()
    refused: list[str] = []
    for source in SOURCES:
        digest = await publish(http, source, key)
        for number, case in enumerate(ordered):
            if number in answers and not case.swaps:
                continue
            try:
                if not await _is_clear(http, case):
                    unclear.add(number)
                answer = await ask(http, case.path, case.body)
            except RefusedError as error:
                refused.append(f"{case.name}: {error}")
                continue
            answers.setdefault(number, {})[digest if case.swaps else None] = texts(answer)
    if refused:
        raise RuntimeError("refused when asked alone:\n" + "\n".join(refused))
    return {ordered[n]: answer for n, answer in answers.items() if n not in unclear}


def texts(answer: Answer) -> tuple[str, ...]:
    """Return the texts in the order of their index."""
    return tuple(answer.texts[index] for index in sorted(answer.texts))


async def _is_clear(http: httpx.AsyncClient, case: Case) -> bool:
    if not case.shows_ties:
        return True
    response = await http.post(case.path, json=case.with_logprobs())
    if response.status_code != 200:
        raise RefusedError(response.status_code, response.text)
    [choice] = response.json()["choices"]
    return all(gap >= CLEAR for gap in _gaps(case.path, choice["logprobs"]))


def _gaps(path: str, logprobs: Any) -> list[float]:
    """Return the lead of the likeliest token at every position, in log-probability."""
    if path == CHAT:
        steps = [[top["logprob"] for top in step["top_logprobs"]] for step in logprobs["content"]]
    else:
        steps = [list(step.values()) for step in logprobs["top_logprobs"]]
    ordered = [sorted(step, reverse=True) for step in steps if len(step) > 1]
    return [step[0] - step[1] for step in ordered]
