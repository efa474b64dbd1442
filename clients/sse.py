"""Server-sent events, without any input or output: bytes in, the data of complete events out.

Follows the parsing rules of the HTML standard, section 9.2.6. `httpx.Response.iter_lines` does not
serve: it also splits at U+2028 and other separators, which JSON strings may contain unescaped.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 16 * 2**20


class EventTooLargeError(ValueError):
    """An event grew past MAX_EVENT_BYTES without ending."""


class EventParser:
    """Collects the bytes of one stream."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size_bytes = 0
        self._after_return = False

    def feed(self, chunk: bytes) -> list[str]:
        """The data of the events that `chunk` completes, in order.

        Raises:
            EventTooLargeError: the event being collected is larger than MAX_EVENT_BYTES.
        """
        events = []
        if self._after_return and chunk:
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
