"""The README's code blocks and the comments that say how each is tested.

A comment of the form `<!-- test: KIND -->` stands before a fenced block:

    setup      shell; not run: each line must be `git clone`, `cd` or `make` with a real target
    request    shell; run against a running server
    python     a program; run against a running server
    answer     what the block before it prints
    none, WHY  not run, for the reason given

Every shell and Python block needs one. In an answer `...` (or the JSON string "...") stands for
anything, see `matches_text` and `matches_json`.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

KINDS = ("setup", "request", "python", "answer", "none")
CODE = ("bash", "sh", "shell", "console", "python")
ANY = ("...", "…")

_BLOCK = re.compile(
    r"(?:^<!-- *test: *(?P<tag>[^\n]*?) *-->[ ]*\n(?:[ ]*\n)?)?"
    r"^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```[ ]*$",
    re.MULTILINE | re.DOTALL,
)


class ReadmeError(Exception):
    """The README does not follow the rules above; the message names the line."""


@dataclass(frozen=True, slots=True)
class Block:
    """`line` is the number of the block's first line of code, from 1."""

    kind: str
    language: str
    text: str
    line: int
    answer: str | None = None


def read_blocks(markdown: str) -> tuple[Block, ...]:
    """The tagged blocks in order; an answer is joined to the block before it.

    Raises:
        ReadmeError: a block of code without a tag, an unknown tag, an answer to nothing.
    """
    blocks: list[Block] = []
    for match in _BLOCK.finditer(markdown):
        line = markdown.count("\n", 0, match.start("text")) + 1
        language, text = match["language"], match["text"]
        kind, _, why = (match["tag"] or "").partition(",")
        if not kind:
            if language in CODE:
                raise ReadmeError(f"line {line}: the {language} block has no test comment")
            continue
        if kind not in KINDS or (kind == "none") != bool(why.strip()):
            raise ReadmeError(f"line {line}: 'test: {match['tag']}' is none of {KINDS}")
        if kind == "answer":
            if not blocks or blocks[-1].kind not in ("request", "python") or blocks[-1].answer:
                raise ReadmeError(f"line {line}: an answer to nothing")
            asked = blocks.pop()
            blocks.append(Block(asked.kind, asked.language, asked.text, asked.line, text))
        else:
            blocks.append(Block(kind, language, text, line))
    return tuple(blocks)


def matches(shown: str, printed: str) -> bool:
    """Whether `printed` is what the README shows: as JSON if both are JSON, else as text."""
    try:
        return matches_json(json.loads(shown), json.loads(printed))
    except json.JSONDecodeError:
        return matches_text(shown, printed)


def matches_json(shown: object, found: object) -> bool:
    """Shown keys must be there with equal values; others may be there too.

    Floats may differ by 0.001. In a string `...` stands for anything. A list may be longer than
    shown if "..." ends it.
    """
    if isinstance(shown, str) and shown in ANY:
        return True
    if isinstance(shown, str) and isinstance(found, str):
        return matches_text(shown, found)
    if isinstance(shown, dict) and isinstance(found, dict):
        return all(key in found and matches_json(value, found[key]) for key, value in shown.items())
    if isinstance(shown, list) and isinstance(found, list):
        is_open = bool(shown) and shown[-1] in ANY
        items = shown[:-1] if is_open else shown
        fits = len(found) >= len(items) if is_open else len(found) == len(items)
        return fits and all(map(matches_json, items, found))
    if isinstance(shown, float) and isinstance(found, int | float):
        return math.isclose(shown, found, rel_tol=0, abs_tol=1e-3)
    return type(shown) is type(found) and shown == found


def matches_text(shown: str, printed: str) -> bool:
    """Equal but for spaces at the end of lines; `...` stands for anything, over lines as well."""

    def tidy(text: str) -> str:
        return "\n".join(line.rstrip() for line in text.strip().splitlines())

    parts = re.split("|".join(map(re.escape, ANY)), tidy(shown))
    return re.fullmatch(".*".join(map(re.escape, parts)), tidy(printed), re.DOTALL) is not None
