"""The chunks of a streamed answer, without any input or output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from clients import errors
from clients.sse import EventParser, EventTooLargeError

C = TypeVar("C")


class ChunkReader(Generic[C]):
    """Bytes of one event stream -> chunks. `done` once the server has said [DONE]."""

    def __init__(self, parse: Callable[[bytes], C], parse_first: Callable[[bytes], C]) -> None:
        """`parse_first` reads the first chunk, `parse` the others."""
        self._parse = parse_first
        self._parse_next = parse
        self._events = EventParser()
        self.done = False

    def feed(self, data: bytes) -> Iterator[C]:
        """The chunks that `data` completes.

        Raises:
            StreamError: the server reports an error, or sends what is no chunk.
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
        """Call at the end of the bytes.

        Raises:
            StreamError: the stream ended before [DONE], so the answer may be cut.
        """
        if not self.done:
            raise errors.StreamError("the stream ended early, before the server said [DONE]")

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
            raise errors.StreamError(f"an event of the stream is no chunk: {error}") from None
        raise failure
