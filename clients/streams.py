"""Streamed answers, without any input or output: bytes in, events, chunks out.

Events follow the parsing rules of the HTML standard, section 9.2.6. `httpx.Response.iter_lines`
does not: it also splits at U+2028 and other separators, which JSON strings may contain unescaped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from clients import errors

C = TypeVar("C")

MAX_EVENT_BYTES = 16 * 2**20


class EventTooLargeError(ValueError):
    """An event grew past MAX_EVENT_BYTES without ending."""


class EventParser:
    """Bytes of one event stream -> data of complete events."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size_bytes = 0
        self._after_return = False

    def feed(self, chunk: bytes) -> list[str]:
        """Return the data of the events that `chunk` completes, in order.

        Raises:
            EventTooLargeError: the event being collected is larger than MAX_EVENT_BYTES.
        """
        events: list[str] = []
        if not chunk:
            return events
        if self._after_return:
            chunk = chunk.removeprefix(b"\n")  # the second half of \r\n, split between two chunks
            self._after_return = False
        *lines, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._line += line
            event = self._end_line()
            if event is not None:
                events.append(event)
        self._line += rest
        self._after_return = chunk.endswith(b"\r")
        if self._size_bytes + len(self._line) > MAX_EVENT_BYTES:
            raise EventTooLargeError(f"an event is larger than {MAX_EVENT_BYTES} bytes")
        return events

    def _end_line(self) -> str | None:
        line = bytes(self._line)
        self._line.clear()
        if not line:
            data, self._data, self._size_bytes = self._data, [], 0
            return b"\n".join(data).decode(errors="replace") if data else None
        name, _, value = line.partition(b":")
        if name == b"data":  # a comment has an empty name; event, id and retry mean nothing here
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._size_bytes += len(value)
        return None


class ChunkReader(Generic[C]):
    """Bytes of one event stream -> chunks; `done` after the server's [DONE]."""

    def __init__(self, parse: Callable[[bytes], C], parse_first: Callable[[bytes], C]) -> None:
        """`parse_first` reads the first chunk, `parse` the others."""
        self._parse = parse_first
        self._parse_next = parse
        self._events = EventParser()
        self.done = False

    def feed(self, data: bytes) -> Iterator[C]:
        """Yield the chunks that `data` completes.

        Raises:
            StreamError: the server reports an error, or sends something that is not a chunk.
            CompositionLost: the answer was not composed.
        """
        try:
            events = self._events.feed(data)
        except EventTooLargeError as error:
            raise errors.StreamError(str(error)) from None
        for event in events:
            if event == "[DONE]":
                self.done = True
                return
            yield self._chunk(event)

    def finish(self) -> None:
        """Check, after the last bytes, that the stream is complete.

        Raises:
            StreamError: the stream ended before [DONE], so the answer may be cut.
        """
        if not self.done:
            raise errors.StreamError("the stream ended early, before the server sent [DONE]")

    def _chunk(self, event: str) -> C:
        try:
            failure = errors.from_event(json.loads(event))
            if failure is None:
                chunk = self._parse(event.encode())
                self._parse = self._parse_next
                return chunk
        except errors.CompositionLost:
            raise
        except (ValueError, errors.InvalidResponse) as error:
            raise errors.StreamError(f"an event of the stream is not a chunk: {error}") from None
        raise failure
