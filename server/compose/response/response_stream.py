"""Responses on their way back, whole or streamed: they name the requested model.

vLLM answers in the name of the model that carried the request. All other fields of vLLM stay as
they are, in the same order.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from starlette.types import Message, Send

from server.compose.response.response_fields import ResponseFields, answer_tokens
from server.http.senders import content_type, dump, send_whole

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_DATA = b"data:"
_DONE = b"[DONE]"

AFFINITY = b"x-composer-affinity"
"""Header of responses that adapters computed; clients may send it back as `X-Session-ID`."""

EXPLAIN_S = 0.25
"""Seconds between the parts of an explanation in a stream."""

Annotate: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Returns a chunk with our fields."""


class EventStream:
    """Rewrites server-sent events that arrive in pieces of any size.

    Only complete events are rewritten, and pieces are split as bytes, so a piece may end within a
    character. Anything but a JSON object passes unchanged: `[DONE]`, comments, error events.

    Every `EXPLAIN_S` seconds a chunk has the explanation of the tokens up to there. The final chunk
    reports the routing, and the rest of the explanation: it is the closing usage where the client
    asked for it, otherwise the last chunk with a finish reason. Such chunks are therefore held
    until the next event.
    """

    def __init__(self, response_fields: ResponseFields) -> None:
        self._fields = response_fields
        self._pending = b""
        self._is_first = True
        self._indices: set[int] = set()  # of the answers in the stream
        self._tokens: int | None = None  # of all answers, once the usage has told
        self._held: tuple[_Event, Annotate] | None = None
        self._explained_s = time.monotonic()

    async def feed(self, data: bytes) -> bytes:
        """Return the events that `data` completes, rewritten."""
        self._pending += data
        out = b""
        start = 0
        for end in _EVENT_END.finditer(self._pending):
            out += await self._event(self._pending[start : end.start()], end[0])
            start = end.end()
        self._pending = self._pending[start:]
        return out

    async def close(self) -> bytes:
        """Return the rest of the stream."""
        rest, self._pending = self._pending, b""
        return self._release() + (await self._event(rest, b"") if rest else b"")

    async def _event(self, data: bytes, end: bytes) -> bytes:
        event = _Event.read(data, end)
        if event is None:
            data = self._fields.without_engine_names(data)
            if _DONE in data and self._held is not None:
                held, self._held = self._held[0], None
                return await self._final(held) + data + end
            return self._release() + data + end
        if event.closes and self._fields.hides_usage:
            self._read_usage(event)
            return b""
        out = self._release()
        annotate = self._fields.first_chunk if self._is_first else self._fields.rename_model
        self._is_first = False
        self._indices |= event.indices
        if event.closes:
            return out + await self._final(event)
        if self._fields.reports_at_end and event.finishes:
            self._held = event, annotate
            return out
        response = annotate(event.response)
        if event.indices and time.monotonic() > self._explained_s + EXPLAIN_S:
            response = await self._fields.next_chunk(response)
            self._explained_s = time.monotonic()
        return out + event.write(response)

    async def _final(self, event: _Event) -> bytes:
        self._read_usage(event)
        single = len(self._indices) <= 1
        response = await self._fields.final_chunk(event.response, self._tokens, single=single)
        return event.write(response)

    def _read_usage(self, event: _Event) -> None:
        self._fields.observe(event.response)
        if (tokens := answer_tokens(event.response)) is not None:
            self._tokens = tokens

    def _release(self) -> bytes:
        if self._held is None:
            return b""
        (event, annotate), self._held = self._held, None
        return event.write(annotate(event.response))


_RESPONSE_FIELDS = {"message_start": "message"}
"""Event type -> the field that holds the response; in all `response.*` events it is `response`."""

_CLOSING_TYPES = (
    "message_delta",
    "response.completed",
    "response.incomplete",
    "response.failed",
)
"""Types of the events that have the usage of the whole response."""


@dataclass(frozen=True, slots=True)
class _Event:
    """A server-sent event with a JSON object as its data.

    The chunks of chat and text completions are parts of the response themselves. The events of
    /v1/responses and /v1/messages have a type; some hold the response in a field.
    """

    data: dict[str, Any]
    other_lines: tuple[bytes, ...]
    end: bytes

    @classmethod
    def read(cls, event: bytes, end: bytes) -> _Event | None:
        """Parse an event; return None if it carries no part of a response."""
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
    def response(self) -> dict[str, Any]:
        """The object with the field `model`: the data itself, or a field of it."""
        response: dict[str, Any] = self.data[self._field] if self._field else self.data
        return response

    @property
    def closes(self) -> bool:
        """Whether the event has the usage of the whole response."""
        if (kind := self.data.get("type")) is not None:
            return kind in _CLOSING_TYPES
        return self.data.get("choices") == [] and "usage" in self.data

    @property
    def indices(self) -> set[int]:
        """The indices of the answers to which the event belongs."""
        return {choice.get("index", 0) for choice in self.data.get("choices") or []}

    @property
    def finishes(self) -> bool:
        """Whether the event ends an answer."""
        choices = self.data.get("choices") or []
        return any(choice.get("finish_reason") is not None for choice in choices)

    def write(self, response: dict[str, Any]) -> bytes:
        """Return the event as bytes, with another response."""
        data = {**self.data, self._field: response} if self._field else response
        return b"\n".join([*self.other_lines, _DATA + b" " + dump(data)]) + self.end

    @property
    def _field(self) -> str | None:
        field = _RESPONSE_FIELDS.get(str(self.data.get("type")), "response")
        return field if isinstance(self.data.get(field), dict) else None


class ResponseDecorator:
    """An ASGI `send` that adds `ResponseFields` to successful responses, streamed or whole.

    In errors it replaces the engine's names of adapters.
    """

    def __init__(self, send: Send, response_fields: ResponseFields) -> None:
        self._send = send
        self._fields = response_fields
        self._stream: EventStream | None = None
        self._start: Message | None = None  # held, because the length of a whole response changes
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif self._stream is not None:
            await self._send_events(self._stream, message)
        elif self._start is not None:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_whole(self._start)
        else:
            await self._send(message)

    async def _begin(self, message: Message) -> None:
        media_type = content_type(message)
        succeeds = message["status"] == 200
        if succeeds and (affinity := self._fields.affinity) is not None:
            headers = [*message["headers"], (AFFINITY, affinity.encode())]
            message = {**message, "headers": headers}
        if succeeds and media_type.startswith(b"text/event-stream"):
            self._stream = EventStream(self._fields)
        elif media_type.startswith(b"application/json"):
            self._start = message
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
            body = self._fields.without_engine_names(body)
        elif isinstance(response := json.loads(body), dict):
            body = dump(await self._fields.annotate(response))
        await send_whole(self._send, start, body)
