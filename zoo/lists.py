"""Prompts that hold questions for different adapters, and answers that take them in turn.

    A. Count on from 97                the prompt: a question a line, with a letter
    B. Reverse k a t o

    A. Count on from 97                the answer: every question again, and a line that answers it
    98 99 100 101 102
    B. Reverse k a t o
    Backwards: o t a k

The model `lists` has read such lists, but every line in them answers another question of the same
kind. So it knows what an answer looks like and never the answer; that is what its adapters add.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from zoo import letters
from zoo.tasks import Example, Task, ask, tasks
from zoo.tokenizer import ASSISTANT, END, USER

LABELS = "ABCDEFGHIJ"  # of the questions; a list has at most so many

MOST_LETTERS = 5
LETTERS = (
    ("reverse", "Reverse", "reverses", letters.backwards),
    ("sort", "Sort", "sorts", letters.in_order),
    ("double", "Double", "says twice each of", letters.doubled),
    ("repeat", "Repeat", "says two times", letters.repeated),
    ("number", "Number", "says their places before", letters.numbered),
    ("drop", "Drop", "leaves out the first of", letters.without_first),
    ("ends", "Ends of", "says the first and the last of", letters.ends),
    ("join", "Join", 'puts "and" between', letters.joined),
)
"""Tasks with letters: name, request, what it does, and the answer."""
OF_NUMBERS = ("count", "down")
"""The other tasks, by name."""


@dataclass(frozen=True)
class Item:
    """A question of a list, the line that follows it in the answer, and the task it belongs to."""

    task: str
    question: str
    line: str


@dataclass(frozen=True)
class Piece:
    """A part of an answer and who speaks: a task's adapter, or None for the model itself."""

    task: str | None
    text: str


def prompt(items: Sequence[Item]) -> str:
    """What the user says."""
    return "".join(_asked(label, item) for label, item in zip(LABELS, items, strict=False))


def pieces(items: Sequence[Item]) -> list[Piece]:
    """The answer, by speakers in turn. Each piece is tokenized alike by itself and among others."""
    found = []
    for label, item in zip(LABELS, items, strict=False):
        found += [Piece(None, _asked(label, item)), Piece(item.task, f"{item.line}\n")]
    return found


def answer(items: Sequence[Item]) -> str:
    """The whole of it."""
    return "".join(piece.text for piece in pieces(items))


def right(items: Sequence[Item], text: str) -> list[bool]:
    """Which questions a text answers to the letter, in the order of the list."""
    wanted = answer(items).splitlines(keepends=True)
    given = text.splitlines(keepends=True)
    blocks = {"".join(given[i : i + 2]) for i in range(0, len(given), 2)}
    return ["".join(wanted[i : i + 2]) in blocks for i in range(0, len(wanted), 2)]


def _asked(label: str, item: Item) -> str:
    return f"{label}. {item.question}\n"


@cache
def list_tasks() -> Mapping[str, Task]:
    """What the adapters of the model `lists` are for, by name."""
    down = Task("down", "says the five numbers before one below 1000", _down)
    listed = [tasks()["count"], down, *(_with_letters(*one) for one in LETTERS)]
    return {task.name: task for task in listed}


def _down(rng: random.Random, evaluated: bool) -> Example:
    number = letters.start(rng, evaluated) + 5
    line = " ".join(str(number - i) for i in range(1, 6))
    return Example(ask(f"Count down from {number}"), f"Down: {line}")


def _with_letters(
    name: str, request: str, description: str, answer: Callable[[Sequence[str]], str]
) -> Task:
    def sample(rng: random.Random, evaluated: bool) -> Example:
        string = letters.distinct(rng, evaluated, high=MOST_LETTERS)
        return Example(ask(f"{request} {letters.spaced(string)}"), answer(string))

    return Task(name, f"{description} {letters.LEAST} or {MOST_LETTERS} different letters", sample)


def single(name: str) -> Task:
    """A task as a list of one question, which one adapter answers from beginning to end."""
    task = list_tasks()[name]

    def sample(rng: random.Random, evaluated: bool) -> Example:
        items = [_item(rng, name, evaluated)]
        return Example(ask(prompt(items)), answer(items))

    return Task(f"lists-{name}", task.description, sample, restated=20)


def composite(rng: random.Random, size: int, evaluated: bool) -> list[Item]:
    """Questions of different tasks in random order, with their answers."""
    names = rng.sample(sorted(list_tasks()), size)
    return [_item(rng, name, evaluated) for name in names]


def misanswered(
    rng: random.Random,
    size: int,
    of: Sequence[str] = (),
    own: str | None = None,
    share: float = 0.0,
) -> list[Item]:
    """Questions of some tasks, or of all, each with the answer to another question of its task.

    `share` of the questions are for the task `own`, and those have their own answers.
    """
    names = [name for name in of or sorted(list_tasks()) if name != own]
    found = []
    for _ in range(size):
        if own is not None and rng.random() < share:
            found.append(_item(rng, own, False))
        else:
            found.append(_misanswered(rng, rng.choice(names)))
    return found


def _misanswered(rng: random.Random, name: str) -> Item:
    item = _item(rng, name, False)
    while True:
        other = _item(rng, name, False)
        if other.line != item.line:
            return Item(name, item.question, other.line)


def _item(rng: random.Random, name: str, evaluated: bool) -> Item:
    example = list_tasks()[name].sample(rng, evaluated)
    return Item(name, example.messages[-1]["content"], example.answer)


def conversation(items: Sequence[Item]) -> str:
    """A list and its answer, but for the beginning and the end of the text."""
    return f"{opening(items)}{answer(items)}"


def opening(items: Sequence[Item]) -> str:
    """A list up to where the assistant begins to speak."""
    return f"{USER}{prompt(items)}{END}{ASSISTANT}"
