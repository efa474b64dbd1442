"""Prompts with questions for different adapters, and answers in which the adapters take turns.

    A. Count on from 97                the prompt: one question per line, with a letter
    B. Reverse k a t o

    A. Count on from 97                the answer: every question again, then a line that answers it
    98 99 100 101 102
    B. Reverse k a t o
    Backwards: o t a k

The model `lists` has read such lists, but every line in them answers another question of the same
kind: it knows what an answer looks like, and never the answer, which its adapters add.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from zoo import letters
from zoo.tasks import Example, Task, ask, tasks
from zoo.tokenizer import ASSISTANT, END, USER

LABELS = "ABCDEFGHIJ"  # of the questions, and the largest size of a list

MAX_LETTERS = 5
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
"""Tasks with letters: name, request, description, and answer."""
OF_NUMBERS = ("count", "down")
"""Names of the other tasks."""


@dataclass(frozen=True)
class Item:
    """A question, the line that follows it in the answer, and its task."""

    task: str
    question: str
    line: str


@dataclass(frozen=True)
class Piece:
    """A part of an answer and its speaker: a task's adapter, or None for the model alone."""

    task: str | None
    text: str


def prompt(items: Sequence[Item]) -> str:
    """Return the user's message."""
    return "".join(_line(label, item) for label, item in zip(LABELS, items, strict=False))


def pieces(items: Sequence[Item]) -> list[Piece]:
    """Return the answer by speakers. A piece has the same tokens alone and among others."""
    parts = []
    for label, item in zip(LABELS, items, strict=False):
        parts += [Piece(None, _line(label, item)), Piece(item.task, f"{item.line}\n")]
    return parts


def answer(items: Sequence[Item]) -> str:
    """Return the whole answer."""
    return "".join(piece.text for piece in pieces(items))


def right(items: Sequence[Item], text: str) -> list[bool]:
    """Return for each question whether the text answers it to the letter."""
    expected = answer(items).splitlines(keepends=True)
    lines = text.splitlines(keepends=True)
    blocks = {"".join(lines[i : i + 2]) for i in range(0, len(lines), 2)}
    return ["".join(expected[i : i + 2]) in blocks for i in range(0, len(expected), 2)]


def _line(label: str, item: Item) -> str:
    return f"{label}. {item.question}\n"


@cache
def list_tasks() -> Mapping[str, Task]:
    """Return the tasks of the adapters of `lists`, by name."""
    down = Task("down", "says the five numbers before one below 1000", _down)
    listed = [tasks()["count"], down, *(_with_letters(*entry) for entry in LETTERS)]
    return {task.name: task for task in listed}


def _down(rng: random.Random, evaluated: bool) -> Example:
    number = letters.start(rng, evaluated) + 5
    line = " ".join(str(number - i) for i in range(1, 6))
    return Example(ask(f"Count down from {number}"), f"Down: {line}")


def _with_letters(
    name: str, request: str, description: str, answer: Callable[[Sequence[str]], str]
) -> Task:
    def sample(rng: random.Random, evaluated: bool) -> Example:
        string = letters.distinct(rng, evaluated, high=MAX_LETTERS)
        return Example(ask(f"{request} {letters.spaced(string)}"), answer(string))

    return Task(
        name, f"{description} {letters.MIN_LETTERS} or {MAX_LETTERS} different letters", sample
    )


def single(name: str) -> Task:
    """Return a task as a list of one question, answered by one adapter from beginning to end."""
    task = list_tasks()[name]

    def sample(rng: random.Random, evaluated: bool) -> Example:
        items = [_item(rng, name, evaluated)]
        return Example(ask(prompt(items)), answer(items))

    return Task(f"lists-{name}", task.description, sample, restated=20)


def composite(rng: random.Random, size: int, evaluated: bool) -> list[Item]:
    """Return questions of different tasks in random order, with their answers."""
    names = rng.sample(sorted(list_tasks()), size)
    return [_item(rng, name, evaluated) for name in names]


def misanswered(
    rng: random.Random,
    size: int,
    of: Sequence[str] = (),
    answered: str | None = None,
    share: float = 0.0,
) -> list[Item]:
    """Return questions of the tasks `of` (default: all) with answers to other questions.

    Questions of the task `answered`, a `share` of all, have right answers.
    """
    names = [name for name in of or sorted(list_tasks()) if name != answered]
    items = []
    for _ in range(size):
        if answered is not None and rng.random() < share:
            items.append(_item(rng, answered, False))
        else:
            items.append(_misanswered(rng, rng.choice(names)))
    return items


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
    """Return a list and its answer, without the tokens that begin and end a text."""
    return f"{opening(items)}{answer(items)}"


def opening(items: Sequence[Item]) -> str:
    """Return a list up to the beginning of the assistant's reply."""
    return f"{USER}{prompt(items)}{END}{ASSISTANT}"
