"""Answers on their way back: they name what was asked for, and tell what was computed.

vLLM answers in the name of the model that carried the request. Everything else of its answers
stays as it is, down to the order of the fields.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from starlette.types import Message, Send

from composer.errors import EngineFault
from server.errors import error_body

logger = logging.getLogger(__name__)

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_DATA = b"data:"


class Decoration:
    """What the answers of one request say about it.

    `model` as it was asked for; `composition` where it was one; `adapters`, alias to digest, where
    the answer is to tell which generations computed it.
    """

    def __init__(
        self,
        model: str,
        composition: dict[str, Any] | None,
        adapters: dict[str, str] | None = None,
    ) -> None:
        self.model = model
        self.composition = composition
        self.adapters = adapters

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """A complete answer."""
        return self._named(answer, tell=True)

    def chunk(self, chunk: dict[str, Any], *, first: bool) -> dict[str, Any]:
        """A chunk of a stream: the first one and the closing usage tell how it was computed."""
        return self._named(chunk, tell=first or (chunk.get("choices") == [] and "usage" in chunk))

    def _named(self, answer: dict[str, Any], *, tell: bool) -> dict[str, Any]:
        answer = {k: self.model if k == "model" else v for k, v in answer.items()}
        if tell and self.composition is not None:
            answer["composition"] = self.composition
        if tell and self.adapters:
            answer["adapters"] = self.adapters
        return answer


class EventStream:
    """Rewrites server-sent events that arrive in pieces of any size.

    Only complete events are looked at, and as bytes, so neither a character nor an event is
    harmed by where the pieces end. What is not a JSON object passes as it is: `[DONE]`, comments,
    and error events.
    """

    def __init__(self, decoration: Decoration) -> None:
        self._decoration = decoration
        self._pending = b""
        self._first = True

    def feed(self, data: bytes) -> bytes:
        """The events that `data` completes."""
        self._pending += data
        out = b""
        start = 0
        for end in _EVENT_END.finditer(self._pending):
            out += self._event(self._pending[start : end.start()]) + end[0]
            start = end.end()
        self._pending = self._pending[start:]
        return out

    def close(self) -> bytes:
        """What is left when the stream ends."""
        rest, self._pending = self._pending, b""
        return self._event(rest) if rest else b""

    def _event(self, event: bytes) -> bytes:
        lines = event.splitlines()
        data = [line.removeprefix(_DATA) for line in lines if line.startswith(_DATA)]
        try:
            chunk = json.loads(b"\n".join(data)) if data else None
        except ValueError:
            return event
        if not isinstance(chunk, dict) or "error" in chunk:
            return event
        chunk = self._decoration.chunk(chunk, first=self._first)
        self._first = False
        others = [line for line in lines if not line.startswith(_DATA)]
        return b"\n".join([*others, _DATA + b" " + _dump(chunk)])


class AnswerSender:
    """An ASGI `send` that decorates a successful answer, streamed or whole."""

    def __init__(self, send: Send, decoration: Decoration) -> None:
        self._send = send
        self._decoration = decoration
        self._stream: EventStream | None = None
        self._held: Message | None = None  # the start of a whole answer, whose length will change
        self._body = b""

    @property
    def streaming(self) -> bool:
        """Whether the client has the first bytes of a stream, so that no status can follow."""
        return self._stream is not None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif self._stream is not None:
            await self._send_events(self._stream, message)
        elif self._held is not None:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_whole(self._held)
        else:
            await self._send(message)

    async def fail(self) -> None:
        """End a stream whose source failed: an error event instead of a cut connection."""
        fault = EngineFault("the server failed while it was answering. Ask again.")
        event = b"data: " + _dump(error_body(fault)) + b"\n\n"
        await self._send({"type": "http.response.body", "body": event, "more_body": False})

    async def _begin(self, message: Message) -> None:
        kind = next((v for k, v in message["headers"] if k.lower() == b"content-type"), b"")
        if message["status"] == 200 and kind.startswith(b"text/event-stream"):
            self._stream = EventStream(self._decoration)
        elif message["status"] == 200 and kind.startswith(b"application/json"):
            self._held = message
            return
        await self._send(message)

    async def _send_events(self, stream: EventStream, message: Message) -> None:
        more = message.get("more_body", False)
        events = stream.feed(message.get("body", b""))
        if not more:
            events += stream.close()
        if events or not more:
            await self._send({"type": "http.response.body", "body": events, "more_body": more})

    async def _send_whole(self, start: Message) -> None:
        answer = json.loads(self._body)
        body = _dump(self._decoration.whole(answer)) if isinstance(answer, dict) else self._body
        headers = [(k, v) for k, v in start["headers"] if k.lower() != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({**start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _dump(value: dict[str, Any]) -> bytes:
    # As vLLM writes JSON: no spaces, characters as they are.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
