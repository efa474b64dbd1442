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
from collections.abc import Iterable
from typing import NoReturn, TypeAlias

from composer.lexer import Word, fail, split

MAX_LENGTH = 2000
"""Characters in a formula."""

MAX_NESTING = 50
"""Parentheses within parentheses."""

Sum: TypeAlias = tuple[tuple[str, float], ...]
"""(name, weight) in the order of writing; a name may occur several times."""

_Value: TypeAlias = float | Sum


def parse(text: str) -> Sum:
    """Read a formula as (name, weight) terms, parentheses multiplied out and nothing merged.

    Weights may come out as infinity or NaN where constants overflow; `plan.normalize` rejects them.

    Raises:
        FormulaSyntaxError: with the position, and the place marked in the message.
    """
    if len(text) > MAX_LENGTH:
        fail(
            text,
            MAX_LENGTH,
            f"the formula has {len(text)} characters; write at most {MAX_LENGTH}, or use 'members'",
        )
    return _Parser(text).formula()


def format_number(value: float) -> str:
    """The shortest text that reads back as the same float: `1`, `0.8`, `1e-05`."""
    text = repr(float(value))
    return text.removesuffix(".0")


def format_sum(terms: Iterable[tuple[str, float]]) -> str:
    """`base + 0.8*polite - 0.8*rude`, from names that are already quoted as needed."""
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


class _Parser:
    """Recursive descent, one method per rule of the grammar."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.words = split(text)
        self.index = 0
        self.nesting = 0

    @property
    def next(self) -> Word:
        return self.words[self.index]

    def take(self) -> Word:
        word = self.next
        self.index += 1
        return word

    def fail(self, word: Word, message: str) -> NoReturn:
        fail(self.text, word.position, message)

    def formula(self) -> Sum:
        if self.next.kind == "end":
            self.fail(self.next, "the formula is empty; name at least one model, e.g. 'base'")
        value = self.sum()
        if self.next.kind != "end":
            self.fail(self.next, f"expected + - * / or the end, found {self.next}{self.hint()}")
        if isinstance(value, float):
            self.fail(
                self.words[0],
                f"the formula is the constant {format_number(value)}; multiply a model with it",
            )
        return value

    def hint(self) -> str:
        before = self.words[self.index - 1]
        if before.kind == "number" and self.next.kind in ("name", "("):
            return f"; write '*' after {before.text}"
        return ""

    def sum(self) -> _Value:
        start = self.next
        value = self.product()
        while self.next.kind in ("+", "-"):
            sign = 1.0 if self.take().kind == "+" else -1.0
            operand = self.next
            right = self.product()
            if isinstance(value, float) and isinstance(right, float):
                value += sign * right
            elif isinstance(value, tuple) and isinstance(right, tuple):
                value += _scaled(right, sign)
            else:
                constant = start if isinstance(value, float) else operand
                self.fail(
                    constant,
                    "a constant cannot be added to a model; multiply a model with it or remove it",
                )
        return value

    def product(self) -> _Value:
        value = self.factor()
        while self.next.kind in ("*", "/"):
            divide = self.take().kind == "/"
            operand = self.next
            right = self.factor()
            if divide:
                value = self.quotient(value, right, operand)
            elif isinstance(right, float):
                value = value * right if isinstance(value, float) else _scaled(value, right)
            elif isinstance(value, float):
                value = _scaled(right, value)
            else:
                self.fail(
                    operand, "a model cannot be multiplied with a model; one side must be a number"
                )
        return value

    def quotient(self, value: _Value, divisor: _Value, at: Word) -> _Value:
        if isinstance(divisor, tuple):
            self.fail(at, "a model cannot be a divisor; divide by a number")
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
        if word.kind == "name":
            return ((word.text, sign),)
        if word.kind != "(":
            self.fail(word, f"expected a model, a number or '(', found {word}")
        value = self.parenthesized(word)
        return sign * value if isinstance(value, float) else _scaled(value, sign)

    def parenthesized(self, opening: Word) -> _Value:
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
