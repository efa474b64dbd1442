"""One client: it asks, reads whole or as a stream, slowly, or leaves; and keeps what it got."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.soak.cases import CHAT, COMPLETIONS, RESPONSES, Case

PATIENCE_S = 90.0
"""A request that takes longer is stuck."""


class RefusedError(Exception):
    """The server answered with an error. `status`: of HTTP, 500 for an error inside a stream."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"status {status}: {text[:300]}")
        self.status = status


@dataclass
class Answer:
    """Texts by index, and the digests by alias that the answer reports."""

    texts: dict[int, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    whole: bool = False

    def take(self, path: str, told: dict[str, Any]) -> None:
        """Add a body, a chunk or an event of the route `path`."""
        inner = told.get("response") or told.get("message") or {}
        self.digests |= told.get("adapters") or inner.get("adapters") or {}
        for index, text in texts_of(path, told):
            self.texts[index] = self.texts.get(index, "") + text


def texts_of(path: str, told: dict[str, Any]) -> list[tuple[int, str]]:
    """The pieces of text in a body, a chunk or an event, by the index of the answer."""
    if path in (CHAT, COMPLETIONS):
        found = []
        for choice in told.get("choices", ()):
            inner = choice.get("message") or choice.get("delta") or choice
            found.append((choice["index"], inner.get("content") or inner.get("text") or ""))
        return found
    if path == RESPONSES:
        if told.get("type") == "response.output_text.delta":
            return [(0, told["delta"])]
        items = [item for item in told.get("output", ()) if item["type"] == "message"]
        return [(0, part["text"]) for item in items for part in item["content"]]
    if told.get("type") == "content_block_delta":
        return [(0, told["delta"].get("text", ""))]
    if told.get("type") == "message":
        return [(0, part["text"]) for part in told["content"]]
    return []


async def ask(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Answer:
    """The whole answer.

    Raises:
        RefusedError: it is an error.
        httpx.TransportError: the connection broke.
    """
    response = await http.post(path, json=body)
    if response.status_code != 200:
        raise RefusedError(response.status_code, response.text)
    answer = Answer(whole=True)
    answer.take(path, response.json())
    return answer


async def listen(
    http: httpx.AsyncClient, case: Case, *, pause_s: float = 0.0, leave_after: int | None = None
) -> Answer:
    """The answer as a stream. With `leave_after` the client hangs up after so many chunks.

    Raises:
        RefusedError: an error, also one in the middle.
        httpx.TransportError: the connection broke, or the stream has no end.
    """
    answer = Answer()
    count = 0
    async for told in _events(http, case):
        if told is None:
            answer.whole = True
            break
        answer.take(case.path, told)
        count += 1
        if leave_after is not None and count >= leave_after:
            return answer
        if pause_s and count <= 5:
            await asyncio.sleep(pause_s)
    if not answer.whole:
        raise httpx.RemoteProtocolError("the stream ended without its last event")
    return answer


async def _events(http: httpx.AsyncClient, case: Case) -> AsyncIterator[dict[str, Any] | None]:
    """Chunks or events; None for the last."""
    async with http.stream("POST", case.path, json={**case.body, "stream": True}) as response:
        if response.status_code != 200:
            text = (await response.aread()).decode(errors="replace")
            raise RefusedError(response.status_code, text)
        async for line in response.aiter_lines():
            if not line.startswith("data:"):
                continue
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                yield None
                return
            told: dict[str, Any] = json.loads(data)
            if "error" in told or told.get("type") in ("error", "response.failed"):
                raise RefusedError(500, data)
            yield told
            if told.get("type") in ("response.completed", "response.incomplete", "message_stop"):
                yield None
                return
