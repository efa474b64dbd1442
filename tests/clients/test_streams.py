"""Event streams, however the network cuts them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.streams import MAX_EVENT_BYTES, EventParser, EventTooLargeError

LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))
EVENTS = st.lists(st.lists(LINE, min_size=1, max_size=3), max_size=5)


@settings(deadline=None)
@given(EVENTS, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 400)))
def test_cuts_do_not_matter(events: list[list[str]], newline: str, cuts: list[int]) -> None:
    text = "".join(
        "".join(f"data: {line}{newline}" for line in event) + newline for event in events
    )
    data = text.encode()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parser = EventParser()
    seen = [event for start, end in pairwise(places) for event in parser.feed(data[start:end])]
    assert seen == ["\n".join(event) for event in events]


def test_an_empty_chunk_within_a_line_end() -> None:
    parser = EventParser()
    chunks = (b"data: a\r", b"", b"\ndata: b\r\n\r\n")
    assert [event for chunk in chunks for event in parser.feed(chunk)] == ["a\nb"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"data:no space\n\n", ["no space"]),
        (b"data:  two spaces\n\n", [" two spaces"]),
        (b"data\n\n", [""]),
        (b": comment\n\nevent: x\nid: 1\ndata: a\nretry: 5\n\n", ["a"]),
        (b"data: unfinished\n", []),
        (b"\n\n\n", []),
        ("data: \u2028 \x85 \x0b\n\n".encode(), ["\u2028 \x85 \x0b"]),
    ],
)
def test_the_rules_of_the_standard(data: bytes, expected: list[str]) -> None:
    assert EventParser().feed(data) == expected


@pytest.mark.parametrize("unit", [b"data: " + b"x" * 2**20 + b"\n", b"x" * 2**20])
def test_an_event_without_end_is_refused(unit: bytes) -> None:
    parser = EventParser()
    for _ in range(MAX_EVENT_BYTES // len(unit)):
        assert parser.feed(unit) == []
    with pytest.raises(EventTooLargeError, match=str(MAX_EVENT_BYTES)):
        parser.feed(unit * 2)
