"""Files of JSON lines: items, with a completion and what stands before it, or prompts alone."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clients.cli.local_work import REFUSED, failure

STDIN = "-"

ITEM = '{"prompt": "…", "completion": "…"} or {"messages": […], "completion": "…"}'
TEXT = f'{{"text": "…"}}, {ITEM}'
PROMPT = '{"prompt": "…"} or {"messages": […]}'


def read_items(file: str) -> list[dict[str, Any]]:
    """Read the items of a file, or of standard input for `-`; blank lines are skipped.

    Raises:
        OSError: the file cannot be read.
        TyperException: a line is not an item, or the file has no items.
    """
    return [
        _checked(item, place, ITEM, "'completion'", "completion" in item)
        for place, item in _objects(file, "items", ITEM)
    ]


def read_texts(file: str) -> list[dict[str, Any]]:
    """Read items as `read_items` does, and texts, of which the first word is the prompt."""
    return [_text(item, place) for place, item in _objects(file, "texts", TEXT)]


def read_prompts(file: str) -> list[dict[str, Any]]:
    """Read what stands before an answer, `prompt` or `messages`, as `read_items` does.

    Other fields of a line are left out.
    """
    beginnings = ("prompt", "messages")
    return [
        _checked(
            {name: item[name] for name in beginnings if name in item},
            place,
            PROMPT,
            "one of 'prompt' and 'messages'",
            ("prompt" in item) != ("messages" in item),
        )
        for place, item in _objects(file, "prompts", PROMPT)
    ]


def _text(item: dict[str, Any], place: str) -> dict[str, Any]:
    if set(item) != {"text"}:
        return _checked(item, place, TEXT, "'completion'", "completion" in item)
    words = re.match(r"(\s*\S+)(\s+\S.*)", str(item["text"]), re.DOTALL)
    if words is None:
        raise failure(REFUSED, f"{place} has a text of less than two words; write {TEXT}")
    return {"prompt": words[1], "completion": words[2]}


def _checked(item: dict[str, Any], place: str, form: str, needs: str, has: bool) -> dict[str, Any]:
    if not has:
        raise failure(REFUSED, f"{place} has no {needs}; write {form}")
    return item


def _objects(file: str, what: str, form: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the JSON objects of a file, each with its place for messages."""
    name = "standard input" if file == STDIN else f"'{file}'"
    text = sys.stdin.read() if file == STDIN else Path(file).read_text(encoding="utf-8")
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise failure(REFUSED, f"{name} has no {what}; write one a line, as {form}")
    for number, line in lines:
        place = f"{name}, line {number}"
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise failure(REFUSED, f"{place} is not JSON: {error}; write {form}") from None
        if not isinstance(item, dict):
            raise failure(REFUSED, f"{place} is not a JSON object; write {form}")
        yield place, item
