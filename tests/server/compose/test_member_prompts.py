"""The request's prompt without a text, for context-aware decoding."""

from __future__ import annotations

import pytest

from server.compose.member_prompts import _remove_text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("CONTEXT Who?", "Who?"),
        ("Read: CONTEXT\n\nWho?", "Read: Who?"),
        ("CONTEXT And CONTEXT Who?", "And Who?"),
        ("Who? CONTEXT", "Who?"),
        ("Who?\nCONTEXT\n", "Who?"),
        (" Who?  When? CONTEXT Where? ", " Who?  When? Where? "),
    ],
)
def test_the_blank_goes_with_the_context(text: str, left: str) -> None:
    assert _remove_text(text, "CONTEXT") == left
    part = {"type": "text", "text": text}
    assert _remove_text([part], "CONTEXT") == [{**part, "text": left}]
