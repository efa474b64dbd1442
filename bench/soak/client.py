"""One client: sends a request and reads the answer whole, as a stream, slowly, or in part."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.soak.cases import CHAT, COMPLETIONS, RESPONSES, Case

PATIENCE_S = 90.0
"""A request that takes longer counts as stuck."""


class RefusedError(Exception):
    """The server answered with an error; `status` is 500 for an error event inside a stream."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"status {status}: {text[:300]}")
        self.status = status


@dataclass
class Answer:
    """Texts by choice index, and the reported digests by alias."""

    texts: dict[int, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    whole: bool = False

    def take(self, path: str, data: dict[str, Any]) -> None:
        """Add a body, a chunk or an event of the route `path`."""
        inner = data.get("response") or data.get("message") or {}
        self.digests |= data.get("adapters") or inner.get("adapters") or {}
        for index, text in texts_of(path, data):
            self.texts[index] = self.texts.get(index, "") + text


def texts_of(path: str, data: dict[str, Any]) -> list[tuple[int, str]]:
    """Return (choice index, text) of a body, a chunk or an event."""
    if path in (CHAT, COMPLETIONS):
        pieces = []
        for choice in data.get("choices", ()):
            inner = choice.get("message") or choice.get("delta") or choice
            pieces.append((choice["index"], inner.get("content") or inner.get("text") or ""))
        return pieces
    if path == RESPONSES:
        if data.get("type") == "response.output_text.delta":
            return [(0, data["delta"])]
        items = [item for item in data.get("output", ()) if item["type"] == "message"]
        return [(0, part["text"]) for item in items for part in item["content"]]
    if data.get("type") == "content_block_delta":
        return [(0, data["delta"].get("text", ""))]
    if data.get("type") == "message":
        return [(0, part["text"]) for part in data["content"]]
    return []


async def ask(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Answer:
    """Return the whole answer.

    Raises:
        RefusedError: the answer is an error.
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
    """Return an answer read as a stream; with `leave_after`, hang up after that many chunks.

    Raises:
        RefusedError: the answer is an error, or an error event broke the stream off.
        httpx.TransportError: the connection broke, or the stream ended without its last event.
    """
    answer = Answer()
    count = 0
    async for event in _events(http, case):
        if event is None:
            answer.whole = True
            break
        answer.take(case.path, event)
        count += 1
        if leave_after is not None and count >= leave_after:
            return answer
        if pause_s and count <= 5:
            await asyncio.sleep(pause_s)
    if not answer.whole:
        raise httpx.RemoteProtocolError("the stream ended without its last event")
    return answer


async def _events(http: httpx.AsyncClient, case: Case) -> AsyncIterator[dict[str, Any] | None]:
    """Yield chunks or events, then None at the regular end."""
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
            event: dict[str, Any] = json.loads(data)
            if "error" in event or event.get("type") in ("error", "response.failed"):
                raise RefusedError(500, data)
            yield event
            if event.get("type") in ("response.completed", "response.incomplete", "message_stop"):
                yield None
                return
