"""Answers on their way back: they name what was asked for, and tell what was computed.

vLLM answers in the name of the model that carried the request. Everything else of its answers
stays as it is, down to the order of the fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from starlette.types import Message, Send

from server.compose.response.response_fields import Decoration
from server.http.senders import content_type, dump, send_whole

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_DATA = b"data:"
_DONE = b"[DONE]"

AFFINITY = b"x-composer-affinity"
"""Header of answers that adapters computed: clients may send it back as `X-Session-ID`."""

Told: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""What a chunk becomes."""


class EventStream:
    """Rewrites server-sent events that arrive in pieces of any size.

    Only complete events are looked at, and as bytes, so neither a character nor an event is
    harmed by where the pieces end. What is not a JSON object passes as it is: `[DONE]`, comments,
    and error events.

    The last chunk tells what the router did. That is the closing usage, where the client wants it;
    else a chunk that finishes an answer and that nothing follows, so these wait for what comes.
    """

    def __init__(self, decoration: Decoration) -> None:
        self._decoration = decoration
        self._pending = b""
        self._first = True
        self._answers: set[int] = set()  # the index of each
        self._waiting: tuple[_Event, Told] | None = None

    async def feed(self, data: bytes) -> bytes:
        """The events that `data` completes."""
        self._pending += data
        out = b""
        start = 0
        for end in _EVENT_END.finditer(self._pending):
            out += await self._event(self._pending[start : end.start()], end[0])
            start = end.end()
        self._pending = self._pending[start:]
        return out

    async def close(self) -> bytes:
        """What is left when the stream ends."""
        rest, self._pending = self._pending, b""
        return self._released() + (await self._event(rest, b"") if rest else b"")

    async def _event(self, data: bytes, end: bytes) -> bytes:
        event = _Event.read(data, end)
        if event is None:
            data = self._decoration.without_engine_names(data)
            if _DONE in data and self._waiting is not None:
                waiting, self._waiting = self._waiting[0], None
                return await self._last(waiting) + data + end
            return self._released() + data + end
        if event.closes and self._decoration.hides_usage:
            self._decoration.see(event.answer)
            return b""
        out = self._released()
        told = self._decoration.first if self._first else self._decoration.named
        self._first = False
        self._answers |= event.answers
        if event.closes:
            return out + await self._last(event)
        if self._decoration.routed is not None and event.finishes:
            self._waiting = event, told
            return out
        return out + event.write(told(event.answer))

    async def _last(self, event: _Event) -> bytes:
        single = len(self._answers) <= 1
        return event.write(await self._decoration.last(event.answer, single=single))

    def _released(self) -> bytes:
        if self._waiting is None:
            return b""
        (event, told), self._waiting = self._waiting, None
        return event.write(told(event.answer))


_HOLDERS = {"message_start": "message"}
"""Event type -> the field that holds the answer; in all `response.*` events it is `response`."""

_CLOSING = ("message_delta", "response.completed", "response.incomplete", "response.failed")
"""Types of the events that tell the usage of a whole answer."""


@dataclass(frozen=True, slots=True)
class _Event:
    """An event that carries a JSON object, and what else it has.

    Chat and text completions send chunks, which are parts of the answer themselves. Events of
    /v1/responses and /v1/messages have a type; some hold the answer in a field.
    """

    data: dict[str, Any]
    others: tuple[bytes, ...]
    end: bytes

    @classmethod
    def read(cls, event: bytes, end: bytes) -> _Event | None:
        """Read an event; None where it carries no part of an answer."""
        lines = event.splitlines()
        payload = [line.removeprefix(_DATA) for line in lines if line.startswith(_DATA)]
        try:
            data = json.loads(b"\n".join(payload)) if payload else None
        except ValueError:
            return None
        if not isinstance(data, dict) or "error" in data:
            return None
        return cls(data, tuple(line for line in lines if not line.startswith(_DATA)), end)

    @property
    def answer(self) -> dict[str, Any]:
        """What names the model: the event itself, or a field of it."""
        answer: dict[str, Any] = self.data[self._holder] if self._holder else self.data
        return answer

    @property
    def closes(self) -> bool:
        """Whether it tells the usage of the whole answer."""
        if (kind := self.data.get("type")) is not None:
            return kind in _CLOSING
        return self.data.get("choices") == [] and "usage" in self.data

    @property
    def answers(self) -> set[int]:
        """Which answers it belongs to."""
        return {choice.get("index", 0) for choice in self.data.get("choices") or []}

    @property
    def finishes(self) -> bool:
        """Whether an answer ends with it."""
        choices = self.data.get("choices") or []
        return any(choice.get("finish_reason") is not None for choice in choices)

    def write(self, answer: dict[str, Any]) -> bytes:
        """The event with `answer` in place of its own."""
        data = {**self.data, self._holder: answer} if self._holder else answer
        return b"\n".join([*self.others, _DATA + b" " + dump(data)]) + self.end

    @property
    def _holder(self) -> str | None:
        holder = _HOLDERS.get(str(self.data.get("type")), "response")
        return holder if isinstance(self.data.get(holder), dict) else None


class ResponseDecorator:
    """An ASGI `send` that decorates successful answers, streamed or whole.

    Errors lose the engine's names of adapters.
    """

    def __init__(self, send: Send, decoration: Decoration) -> None:
        self._send = send
        self._decoration = decoration
        self._stream: EventStream | None = None
        self._held: Message | None = None  # the start of a whole answer, whose length will change
        self._body = b""

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

    async def _begin(self, message: Message) -> None:
        kind = content_type(message)
        succeeds = message["status"] == 200
        if succeeds and (affinity := self._decoration.affinity) is not None:
            headers = [*message["headers"], (AFFINITY, affinity.encode())]
            message = {**message, "headers": headers}
        if succeeds and kind.startswith(b"text/event-stream"):
            self._stream = EventStream(self._decoration)
        elif kind.startswith(b"application/json"):
            self._held = message
            return
        await self._send(message)

    async def _send_events(self, stream: EventStream, message: Message) -> None:
        more = message.get("more_body", False)
        events = await stream.feed(message.get("body", b""))
        if not more:
            events += await stream.close()
        if events or not more:
            await self._send({"type": "http.response.body", "body": events, "more_body": more})

    async def _send_whole(self, start: Message) -> None:
        body = self._body
        if start["status"] != 200:
            body = self._decoration.without_engine_names(body)
        elif isinstance(answer := json.loads(body), dict):
            body = dump(await self._decoration.whole(answer))
        await send_whole(self._send, start, body)
