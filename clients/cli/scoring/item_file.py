"""Files of items: JSON lines, each with a completion and a prompt or messages."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from clients.cli.local_work import REFUSED, failure

STDIN = "-"

FORM = '{"prompt": "…", "completion": "…"} or {"messages": […], "completion": "…"}'


def read_items(file: str) -> list[dict[str, Any]]:
    """Read the items of a file, or of standard input for `-`; blank lines are skipped.

    Raises:
        OSError: the file cannot be read.
        TyperException: a line is not an item, or the file has no items.
    """
    text = sys.stdin.read() if file == STDIN else Path(file).read_text(encoding="utf-8")
    lines = enumerate(text.split("\n"), 1)
    items = [_item(file, number, line) for number, line in lines if line.strip()]
    if not items:
        raise failure(REFUSED, f"{_place(file)} has no items; write one a line, as {FORM}")
    return items


def _item(file: str, number: int, line: str) -> dict[str, Any]:
    try:
        item = json.loads(line)
    except json.JSONDecodeError as error:
        raise failure(
            REFUSED, f"{_place(file)}, line {number} is not JSON: {error}; write {FORM}"
        ) from None
    if not isinstance(item, dict) or "completion" not in item:
        raise failure(REFUSED, f"{_place(file)}, line {number} has no 'completion'; write {FORM}")
    return item


def _place(file: str) -> str:
    return "standard input" if file == STDIN else f"'{file}'"
