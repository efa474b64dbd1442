"""Letters and numbers: skills that have nothing to do with the world.

A checksum of each exercise decides its split, so that no training, pre-training included, meets an
evaluated string or pair of operands. The model `lists` also reads copies of random letters and
numbers, which may coincide with evaluated ones but contain no exercise.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from string import ascii_lowercase

HELD_OUT_SHARE = 5  # one exercise in five is kept for evaluation
MIN_LETTERS = 4  # of a string


def held_out(exercise: str) -> bool:
    """Return whether an exercise belongs to the evaluation split."""
    return zlib.crc32(exercise.encode()) % HELD_OUT_SHARE == 0


def operands(rng: random.Random, evaluated: bool) -> tuple[int, int]:
    """Return two numbers from 0 to 99; a pair and its mirror image are in the same split."""
    while True:
        a, b = rng.randrange(100), rng.randrange(100)
        if held_out(f"{min(a, b)}+{max(a, b)}") == evaluated:
            return a, b


def worked(a: int, b: int) -> str:
    """Return a sum with its working, such as "37+58: 7+8=15, 3+5+1=9, so 95."."""
    units = a % 10 + b % 10
    carry = "+1" if units > 9 else ""
    tens = a // 10 + b // 10 + units // 10
    steps = f"{a % 10}+{b % 10}={units}, {a // 10}+{b // 10}{carry}={tens}"
    return f"{a:02}+{b:02}: {steps}, so {a + b}."


def letters(
    rng: random.Random, evaluated: bool, low: int, high: int, alphabet: str, repeats: bool
) -> list[str]:
    """Return a string of `low` to `high` letters; `repeats` allows a letter more than once."""
    while True:
        size = rng.randint(low, high)
        string = rng.choices(alphabet, k=size) if repeats else rng.sample(alphabet, size)
        if held_out("".join(string)) == evaluated:
            return string


def reversible(rng: random.Random, evaluated: bool) -> list[str]:
    """Return 4 to 8 letters, repeats allowed."""
    return letters(rng, evaluated, MIN_LETTERS, 8, ascii_lowercase, repeats=True)


def distinct(rng: random.Random, evaluated: bool, high: int) -> list[str]:
    """Return 4 to `high` different letters."""
    return letters(rng, evaluated, MIN_LETTERS, high, ascii_lowercase, repeats=False)


def countable(rng: random.Random, evaluated: bool) -> tuple[str, list[str]]:
    """Return a letter and a string of 4 to 8 letters in which it often occurs."""
    alphabet = "".join(rng.sample(ascii_lowercase, 3))
    string = letters(rng, evaluated, MIN_LETTERS, 8, alphabet, repeats=True)
    return rng.choice(alphabet), string


def spaced(string: Sequence[str]) -> str:
    """Return the letters separated by spaces: one token each."""
    return " ".join(string)


def backwards(string: Sequence[str]) -> str:
    """Return the string reversed, after a word, because " k" and "k" are different tokens."""
    return f"Backwards: {spaced(string[::-1])}"


def in_order(string: Sequence[str]) -> str:
    """Return the string sorted."""
    return f"In order: {spaced(sorted(string))}"


def doubled(string: Sequence[str]) -> str:
    """Return every letter twice."""
    return f"Doubled: {spaced([letter for letter in string for _ in range(2)])}"


def repeated(string: Sequence[str]) -> str:
    """Return the string two times."""
    return f"Again: {spaced([*string, *string])}"


def numbered(string: Sequence[str]) -> str:
    """Return every letter after its position."""
    return f"Numbered: {spaced([f'{place} {letter}' for place, letter in enumerate(string, 1)])}"


def without_first(string: Sequence[str]) -> str:
    """Return the string without its first letter."""
    return f"Left: {spaced(string[1:])}"


def joined(string: Sequence[str]) -> str:
    """Return the letters with "and" between them."""
    return f"Joined: {' and '.join(string)}"


def ends(string: Sequence[str]) -> str:
    """Return the first and the last letter."""
    return f"Ends: {string[0]} {string[-1]}"


def counted(letter: str, string: Sequence[str]) -> str:
    """Return a sentence on how often a letter occurs in a string."""
    return f"There are {string.count(letter)}."


def start(rng: random.Random, evaluated: bool) -> int:
    """Return a number below 995 to count on from."""
    while True:
        number = rng.randrange(995)
        if held_out(f"{number}+1") == evaluated:
            return number
