"""Formulas: linear expressions over the names of models, e.g. `base + 0.8*(polite - rude)`.

    sum     = product (("+" | "-") product)*
    product = factor (("*" | "/") factor)*
    factor  = "-"* (number | name | "(" sum ")")
    name    = [A-Za-z_][A-Za-z0-9_.:]*  |  "'" any characters, "''" for a quote "'"

A value is either a constant or a sum of models, never both: `base + 1` is an error, since adding a
constant to every logit changes nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from composer.errors import FormulaSyntaxError, nearest_name, quoted

MAX_LENGTH = 2000
"""Maximum length of a formula, in characters."""

MAX_NESTING = 50
"""Maximum depth of nested parentheses."""

Sum: TypeAlias = tuple[tuple[str, float], ...]
"""(name, weight) in the order of the formula; a name may occur several times."""

_Value: TypeAlias = float | Sum

_NAME = r"[A-Za-z_][A-Za-z0-9_.:]*"
_WORD = re.compile(
    rf"""(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
      | (?P<name>{_NAME})
      | '(?P<quoted>(?:[^']|'')*+)'
      | (?P<symbol>[-+*/()])
      | (?P<space>\s+)""",
    re.VERBOSE,
)
_HALF_WINDOW = 35  # characters of the formula shown on either side of an error


def parse(
    text: str, numbers: Mapping[str, float] | None = None, models: Collection[str] = ()
) -> Sum:
    """Parse a formula into (name, weight) terms, with parentheses multiplied out.

    Equal names are not merged. A weight is infinite or NaN if constants overflow; `plan.normalize`
    refuses it.

    Args:
        text: the formula.
        numbers: names that stand for a number instead of a model. A divisor cannot have any.
        models: with `numbers`, all other names; errors suggest them.

    Raises:
        FormulaSyntaxError: with the position, which the message also marks.
    """
    if len(text) > MAX_LENGTH:
        _fail(
            text,
            MAX_LENGTH,
            f"the formula has {len(text)} characters; write at most {MAX_LENGTH}, or use 'members'",
        )
    return _Parser(text, numbers or {}, models).formula()


def names(text: str) -> list[str]:
    """Return the different names of a formula, in their order.

    Raises:
        FormulaSyntaxError: the formula cannot be split into words.
    """
    return list(dict.fromkeys(word.text for word in _split(text) if word.kind == "name"))


def quote_name(name: str) -> str:
    """Return the name as formulas write it: quoted unless it matches `_NAME`."""
    if re.fullmatch(_NAME, name):
        return name
    return "'" + name.replace("'", "''") + "'"


def format_number(value: float) -> str:
    """Return the shortest text that parses to the same float: `1`, `0.8`, `1e-05`."""
    text = repr(float(value))
    return text.removesuffix(".0")


def format_sum(terms: Iterable[tuple[str, float]]) -> str:
    """Return a sum such as `base + 0.8*polite - 0.8*rude`; names are already quoted as needed."""
    parts: list[str] = []
    for name, weight in terms:
        size = abs(weight)
        sign = "-" if weight < 0 else "+"
        term = name if size == 1 else f"{format_number(size)}*{name}"
        if parts:
            parts.append(f" {sign} {term}")
        else:
            parts.append(f"-{term}" if sign == "-" else term)
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class _Word:
    """A word of a formula. `kind` is "number", "name", "end", or the symbol itself; `position` is
    the index of its first character."""

    kind: str
    text: str
    position: int

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else quoted(self.text)


def _split(text: str) -> list[_Word]:
    """Split a formula into words, without spaces and with an "end" after the last.

    Raises:
        FormulaSyntaxError: a character does not start a word, or a quote is not closed.
    """
    words: list[_Word] = []
    position = 0
    while position < len(text):
        match = _WORD.match(text, position)
        if match is None:
            _fail(text, position, _unexpected(text[position]))
        kind = str(match.lastgroup)
        if kind == "quoted":
            name = match["quoted"].replace("''", "'")
            if not name:
                _fail(text, position, "the name between the quotes is empty; name a model")
            words.append(_Word("name", name, position))
        elif kind != "space":
            words.append(_Word(match[0] if kind == "symbol" else kind, match[0], position))
        position = match.end()
    words.append(_Word("end", "", len(text)))
    return words


class _Parser:
    """Recursive descent, one method per rule of the grammar."""

    def __init__(self, text: str, numbers: Mapping[str, float], models: Collection[str]) -> None:
        self.text = text
        self.numbers = numbers
        self.models = models
        self.words = _split(text)
        self.index = 0
        self.nesting = 0

    @property
    def next(self) -> _Word:
        return self.words[self.index]

    def take(self) -> _Word:
        word = self.next
        self.index += 1
        return word

    def fail(self, word: _Word, message: str) -> NoReturn:
        _fail(self.text, word.position, message)

    def formula(self) -> Sum:
        if self.next.kind == "end":
            self.fail(self.next, "the formula is empty; name at least one model, e.g. 'base'")
        value = self.sum()
        if self.next.kind != "end":
            self.fail(self.next, f"expected + - * / or the end, found {self.next}{self.hint()}")
        if isinstance(value, float):
            message = f"the formula is the constant {format_number(value)}; multiply a model by it"
            self.fail_constant(0, self.index, message)
        return value

    def hint(self) -> str:
        before = self.words[self.index - 1]
        if before.kind == "number" and self.next.kind in ("name", "("):
            return f"; write '*' after {before.text}"
        return ""

    def fail_constant(self, begin: int, end: int, message: str) -> NoReturn:
        """Refuse the constant at `words[begin:end]`, where a model must stand.

        Of names that stand for numbers, the last one may be a misspelt model: `a*(polite - rdue)`.
        """
        free = [word for word in reversed(self.words[begin:end]) if self.is_number(word)]
        if not free:
            self.fail(self.words[begin], message)
        near = ((word, nearest_name(word.text, self.models)) for word in free)
        word, model = next(((word, name) for word, name in near if name), (free[0], None))
        advice = "did you mean" if model else "multiply one by it, e.g."
        example = model or f"{quote_name(word.text)}*{quote_name(next(iter(self.models), 'base'))}"
        self.fail(
            word,
            f"{quoted(word.text)} is not a model here, and no model is multiplied by it; "
            f"{advice} {quoted(example)}{'?' if model else ''}",
        )

    def is_number(self, word: _Word) -> bool:
        return word.kind == "name" and word.text in self.numbers

    def sum(self) -> _Value:
        start = self.index
        value = self.product()
        while self.next.kind in ("+", "-"):
            sign = 1.0 if self.take().kind == "+" else -1.0
            operand = self.index
            right = self.product()
            if isinstance(value, float) and isinstance(right, float):
                value += sign * right
            elif isinstance(value, tuple) and isinstance(right, tuple):
                value += _scaled(right, sign)
            else:
                begin, end = (
                    (start, operand - 1) if isinstance(value, float) else (operand, self.index)
                )
                self.fail_constant(
                    begin,
                    end,
                    "a constant cannot be added to a model; multiply a model by it or remove it",
                )
        return value

    def product(self) -> _Value:
        start = self.index
        value = self.factor()
        while self.next.kind in ("*", "/"):
            divide = self.take().kind == "/"
            operand = self.index
            right = self.factor()
            if divide:
                value = self.quotient(value, right, operand)
            elif isinstance(right, float):
                value = value * right if isinstance(value, float) else _scaled(value, right)
            elif isinstance(value, float):
                value = _scaled(right, value)
            else:
                self.fail_product(start, operand)
        return value

    def fail_product(self, left: int, right: int) -> NoReturn:
        """Refuse a product of models, whose factors begin at these words."""
        if not self.models:
            self.fail(
                self.words[right],
                "a model cannot be multiplied by a model; one side must be a number",
            )
        word = next(word for word in self.words[left:] if word.kind == "name")
        self.fail(
            word,
            f"{quoted(word.text)} is a model, and a model cannot be multiplied by a model; give "
            "the weight a name that is not a model's",
        )

    def quotient(self, value: _Value, divisor: _Value, begin: int) -> _Value:
        """Return `value / divisor`, where the divisor is `words[begin:index]`."""
        at = self.words[begin]
        if isinstance(divisor, tuple):
            self.fail(at, "a model cannot be a divisor; divide by a number")
        if any(map(self.is_number, self.words[begin : self.index])):
            self.fail(at, "a name that stands for a number cannot be a divisor; multiply by it")
        if divisor == 0:
            self.fail(at, "division by zero; divide by another number")
        if isinstance(value, float):
            return value / divisor
        return tuple((name, weight / divisor) for name, weight in value)

    def factor(self) -> _Value:
        sign = 1.0
        while self.next.kind == "-":
            self.take()
            sign = -sign
        word = self.take()
        if word.kind == "number":
            number = float(word.text)
            if math.isinf(number):
                self.fail(word, f"the number {word.text} is too large")
            return sign * number
        if word.kind == "name" and word.text in self.numbers:
            return sign * self.numbers[word.text]
        if word.kind == "name":
            return ((word.text, sign),)
        if word.kind != "(":
            self.fail(word, f"expected a model, a number or '(', found {word}")
        value = self.parenthesized(word)
        return sign * value if isinstance(value, float) else _scaled(value, sign)

    def parenthesized(self, opening: _Word) -> _Value:
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            self.fail(
                opening,
                f"more than {MAX_NESTING} parentheses within each other; multiply some out",
            )
        value = self.sum()
        if self.next.kind != ")":
            self.fail(self.next, f"expected + - * / or ')', found {self.next}{self.hint()}")
        self.take()
        self.nesting -= 1
        return value


def _scaled(terms: Sum, factor: float) -> Sum:
    return tuple((name, weight * factor) for name, weight in terms)


def _fail(text: str, position: int, message: str) -> NoReturn:
    """Raise `FormulaSyntaxError` with an excerpt of the formula and a caret under `position`."""
    start = max(0, position - _HALF_WINDOW)
    before, after = text[start:position], text[position : position + _HALF_WINDOW]
    left = "…" if start else ""
    right = "…" if position + _HALF_WINDOW < len(text) else ""
    # Replace characters one by one, so that the caret stays under its position.
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
