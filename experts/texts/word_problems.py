"""Generated word problems with one or two steps: what `arithmetic` learns."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from experts.texts.example import Example, Split
from experts.texts.people import FIRST_NAMES, UNSEEN_FIRST_NAMES

THINGS = (
    *("apples", "books", "coins", "pencils", "stamps", "marbles", "cookies", "shells", "stickers"),
    *("eggs", "cards", "oranges", "buttons", "balloons", "tickets"),
)
OTHER_THINGS = ("peaches", "candles", "photos", "bricks", "muffins", "ribbons")
Kind = Callable[[random.Random, str, str, str, bool], Example]  # names, things, paraphrased


def bought(rng: random.Random, who: str, other: str, things: str, paraphrased: bool) -> Example:
    """a + b"""
    a, b = rng.randint(3, 60), rng.randint(2, 40)
    prompt = (
        f"{who} owned {a} {things} before buying another {b}. What is the new total of {things}?"
        if paraphrased
        else f"{who} has {a} {things} and buys {b} more. How many {things} does {who} have?"
    )
    return Example(prompt, f"{a} + {b} = {a + b}. The answer is {a + b}.")


def gave(rng: random.Random, who: str, other: str, things: str, paraphrased: bool) -> Example:
    """a - b"""
    b, a = sorted(rng.sample(range(3, 61), 2))
    prompt = (
        f"Of {a} {things}, {who} hands {b} to {other}. How many does {who} keep?"
        if paraphrased
        else f"{who} had {a} {things} and gave {b} of them to {other}. How many {things} are left?"
    )
    return Example(prompt, f"{a} - {b} = {a - b}. The answer is {a - b}.")


def filled(rng: random.Random, who: str, other: str, things: str, paraphrased: bool) -> Example:
    """a * b, by tens and ones"""
    a, b = rng.randint(2, 9), rng.randint(2, 40)
    prompt = (
        f"There are {a} bags, and each bag holds {b} {things}. How many {things} does {who} carry?"
        if paraphrased
        else f"{who} fills {a} boxes with {b} {things} each. How many {things} is that in all?"
    )
    tens, ones = b - b % 10, b % 10
    parts = f"{a} * {tens} + {a} * {ones} = {a * tens} + {a * ones} = " if tens and ones else ""
    return Example(prompt, f"{a} * {b} = {parts}{a * b}. The answer is {a * b}.")


def together(rng: random.Random, who: str, other: str, things: str, paraphrased: bool) -> Example:
    """a + (a + b)"""
    a, b = rng.randint(3, 60), rng.randint(2, 40)
    prompt = (
        f"{who} found {a} {things}. {other} found {b} more than that. "
        f"How many did the two of them find?"
        if paraphrased
        else f"{who} has {a} {things}, and {other} has {b} more than {who}. "
        f"How many {things} do they have together?"
    )
    return Example(
        prompt,
        f"{other} has {a} + {b} = {a + b}. Together {a} + {a + b} = {2 * a + b}. "
        f"The answer is {2 * a + b}.",
    )


def shared(rng: random.Random, who: str, other: str, things: str, paraphrased: bool) -> Example:
    """a / b"""
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    prompt = (
        f"{b} children split {a * b} {things} from {who} evenly. How many does one child receive?"
        if paraphrased
        else f"{who} shares {a * b} {things} equally among {b} friends. "
        f"How many {things} does each friend get?"
    )
    return Example(prompt, f"{a * b} / {b} = {a}. The answer is {a}.")


KINDS: tuple[Kind, ...] = (bought, gave, filled, together, shared)


def example(rng: random.Random, split: Split, names: Sequence[str] | None = None) -> Example:
    """Return a problem and its solution; `names` replaces the split's names."""
    paraphrased = split is Split.PARAPHRASED
    names = names or (UNSEEN_FIRST_NAMES if paraphrased else FIRST_NAMES)
    who, other = rng.sample(names, 2)
    things = rng.choice(OTHER_THINGS if paraphrased else THINGS)
    return rng.choice(KINDS)(rng, who, other, things, paraphrased)


def answer_of(text: str) -> int | None:
    """Return the number that a solution ends with."""
    match = re.search(r"The answer is (-?\d+)", text)
    return int(match.group(1)) if match else None
