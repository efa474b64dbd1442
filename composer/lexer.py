"""The words of a formula, and errors that point at one of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from composer.errors import FormulaSyntaxError, quoted

_WORD = re.compile(
    r"""(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_.:]*)
      | '(?P<quoted>(?:[^']|'')*+)'
      | (?P<symbol>[-+*/()])
      | (?P<space>\s+)""",
    re.VERBOSE,
)
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:]*")
_HALF_WINDOW = 35  # characters of the formula shown on either side of an error


@dataclass(frozen=True, slots=True)
class Word:
    """`kind` is "number", "name", "end", or the symbol itself; `position` counts from 0."""

    kind: str
    text: str
    position: int

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else quoted(self.text)


def split(text: str) -> list[Word]:
    """The words of a formula, without spaces and with an "end" after the last.

    Raises:
        FormulaSyntaxError: a character that starts no word, or a quote that is not closed.
    """
    words: list[Word] = []
    position = 0
    while position < len(text):
        match = _WORD.match(text, position)
        if match is None:
            fail(text, position, _unexpected(text[position]))
        kind = str(match.lastgroup)
        if kind == "quoted":
            name = match["quoted"].replace("''", "'")
            if not name:
                fail(text, position, "the name between the quotes is empty; name a model")
            words.append(Word("name", name, position))
        elif kind != "space":
            words.append(Word(match[0] if kind == "symbol" else kind, match[0], position))
        position = match.end()
    words.append(Word("end", "", len(text)))
    return words


def quote_name(name: str) -> str:
    """The name as a formula writes it: as it is, or in quotes where it has other characters."""
    if _PLAIN_NAME.fullmatch(name):
        return name
    return "'" + name.replace("'", "''") + "'"


def fail(text: str, position: int, message: str) -> NoReturn:
    """Raise `FormulaSyntaxError` with a caret under the place in an excerpt of the formula."""
    start = max(0, position - _HALF_WINDOW)
    before, after = text[start:position], text[position : position + _HALF_WINDOW]
    left = "…" if start else ""
    right = "…" if position + _HALF_WINDOW < len(text) else ""
    # One character for one character, so that the caret stands under its place.
    excerpt = "".join(c if c.isprintable() else " " for c in before + after)
    caret = " " * (len(left) + len(before)) + "^"
    raise FormulaSyntaxError(
        f"{message} (position {position})\n  {left}{excerpt}{right}\n  {caret}", position=position
    )


def _unexpected(character: str) -> str:
    if character == "'":
        return "the quote is not closed; end the name with '"
    if character == "[":
        return "a formula cannot give a member a prompt of its own; use 'members' instead"
    return (
        f"unexpected character {character!r}; formulas know numbers, names and + - * / ( ), "
        "and other names go in single quotes"
    )
