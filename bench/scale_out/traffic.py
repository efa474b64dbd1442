"""Clients that ask for compositions through the router, and how each request ended."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.scale_out.cluster import COMPLETIONS, PROMPT

FORMULA = "base + 0.5*(polite - rude)"
TOKENS = {"whole": 60, "stream": 60, "long": 400}
"""Kind of request -> tokens of its answer."""

PATIENCE_S = 120
"""Longest wait of a client for the next part of an answer; a busy machine is slow."""

MOST_REQUESTS = 2_000
"""Per client, so that a router that refuses everything at once is not asked for ever."""

_BODY: dict[str, Any] = {
    **{"model": FORMULA, "prompt": PROMPT, "temperature": 0},
    "ignore_eos": True,
}
_MESSAGE: dict[str, Any] = {
    **{"model": FORMULA, "max_tokens": 24},
    "messages": [{"role": "user", "content": PROMPT}],
}
_WITH_USAGE = {"include_usage": True}


@dataclass(slots=True)
class Outcome:
    """How a request ends.

    kind: "whole", "stream", "long" (a stream) or "messages".
    begun: whether the client has received a token.
    error: what the client was told instead of the rest of the answer; None without an error.
    whole: whether the answer has as many tokens as were asked for.
    """

    kind: str
    begun: bool = False
    error: str | None = None
    whole: bool = False

    @property
    def lost(self) -> bool:
        """Whether the request failed before its first token."""
        return not self.begun and not self.whole

    @property
    def broken(self) -> bool:
        """Whether the answer ended with an error after its first token."""
        return self.begun and self.error is not None

    @property
    def cut(self) -> bool:
        """Whether the answer ended early as if it were whole."""
        return self.begun and self.error is None and not self.whole


@dataclass
class Traffic:
    """The requests of all clients so far, with those that are being answered."""

    outcomes: list[Outcome] = field(default_factory=list)

    def of(self, *kinds: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.kind in kinds]


@contextmanager
def traffic(router: httpx.Client, clients: int, seconds: float, *kinds: str) -> Iterator[Traffic]:
    """Let clients ask until the end of the block, each one request after another.

    Args:
        router: whom they ask.
        clients: how many.
        seconds: longest duration.
        kinds: of the requests that each client sends in turn.
    """
    record, over = Traffic(), threading.Event()
    deadline = time.monotonic() + seconds

    def run(first: int) -> None:
        with httpx.Client(base_url=router.base_url, timeout=PATIENCE_S, trust_env=False) as client:
            for n in range(first, first + MOST_REQUESTS):
                if over.is_set() or time.monotonic() > deadline:
                    return
                outcome = Outcome(kinds[n % len(kinds)])
                record.outcomes.append(outcome)
                _ask(client, outcome)

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield record
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _ask(client: httpx.Client, outcome: Outcome) -> None:
    try:
        if outcome.kind == "messages":
            answer = client.post("/v1/messages", json=_MESSAGE)
        elif outcome.kind == "whole":
            answer = client.post(COMPLETIONS, json=_BODY | {"max_tokens": TOKENS["whole"]})
        else:
            _listen(client, outcome)
            return
        if answer.status_code != 200:
            outcome.error = f"{answer.status_code}: {answer.text[:200]}"
        elif outcome.kind == "messages":
            outcome.whole = "content" in answer.json()
        else:
            outcome.whole = _is_whole(answer.json(), TOKENS["whole"])
    except httpx.TransportError as error:
        outcome.error = repr(error)


def _listen(client: httpx.Client, outcome: Outcome) -> None:
    tokens = TOKENS[outcome.kind]
    body = _BODY | {"max_tokens": tokens, "stream": True, "stream_options": _WITH_USAGE}
    with client.stream("POST", COMPLETIONS, json=body) as answer:
        if answer.status_code != 200:
            outcome.error = f"{answer.status_code}: {answer.read().decode()[:200]}"
            return
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                outcome.error = line[:200]
            outcome.begun |= bool(chunk.get("choices"))
            outcome.whole |= _is_whole(chunk, tokens)


def _is_whole(answer: dict[str, Any], tokens: int) -> bool:
    return bool((answer.get("usage") or {}).get("completion_tokens") == tokens)
