"""What members read, as shown and as ordered."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from composer.prompts import (
    LastToken,
    MessagesPrompt,
    Prompt,
    RequestPrompt,
    TextPrompt,
    TokensPrompt,
    WithoutText,
    describe,
    label,
    sort_key,
)

CASES: list[tuple[Prompt, str | dict[str, Any], str]] = [
    (RequestPrompt(), "request", ""),
    (LastToken(), "last token", "last token"),
    (TextPrompt("be rude"), {"text": "be rude"}, 'text "be rude"'),
    (TextPrompt("x" * 40), {"text": "x" * 40}, 'text "' + "x" * 40 + '"'),
    (TextPrompt("x" * 41), {"text": "x" * 41}, 'text "' + "x" * 39 + '…"'),
    (
        MessagesPrompt((("system", "be\nrude"), ("user", "hi"))),
        {
            "messages": [
                {"role": "system", "content": "be\nrude"},
                {"role": "user", "content": "hi"},
            ]
        },
        'messages "hi"',
    ),
    (TokensPrompt((5, 6, 7)), {"token_ids": 3}, "3 token ids"),
    (WithoutText('a "b"'), {"without": 'a "b"'}, r'without "a \"b\""'),
]


@pytest.mark.parametrize(("prompt", "described", "labelled"), CASES)
def test_shown(prompt: Prompt, described: str | dict[str, Any], labelled: str) -> None:
    assert describe(prompt) == described
    assert json.loads(json.dumps(describe(prompt))) == described
    assert label(prompt) == labelled


def test_order_starts_with_the_request_and_tells_all_apart() -> None:
    prompts = [prompt for prompt, _, _ in CASES]
    assert min(prompts, key=sort_key) == RequestPrompt()
    for one, other in itertools.combinations(prompts, 2):
        assert sort_key(one) != sort_key(other)


def test_equal_prompts_are_one_key() -> None:
    assert len({MessagesPrompt((("user", "hi"),)), MessagesPrompt((("user", "hi"),))}) == 1
    texts: set[Prompt] = {TextPrompt("a"), WithoutText("a")}
    assert len(texts) == 2
