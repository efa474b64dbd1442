"""Prompts that hold questions for different adapters, and answers that take them in turn.

    A. Count on from 97                the prompt: a question a line, with a letter
    B. Reverse k a t o

    A. Count on from 97                the answer: every question again, and a line that answers it
    98 99 100 101 102
    B. Reverse k a t o
    Backwards: o t a k

The model `lists` has read such lists, but with lines that have nothing to do with the questions. So
it knows the frame and answers nothing; that is what its adapters add.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from zoo import letters
from zoo.corpus import statement
from zoo.tasks import Example, Task, ask, tasks
from zoo.tokenizer import ASSISTANT, END, USER
from zoo.world import world

LABELS = "ABCDEFGHIJ"  # of the questions; a list has at most so many

MOST_LETTERS = 5
LETTERS = (
    ("reverse", "Reverse", "reverses", letters.backwards),
    ("sort", "Sort", "sorts", letters.in_order),
    ("double", "Double", "says twice each of", letters.doubled),
    ("repeat", "Repeat", "says two times", letters.repeated),
    ("swap", "Swap", "swaps the first and the last of", letters.swapped),
    ("drop", "Drop", "leaves out the first of", letters.without_first),
    ("ends", "Ends of", "says the first and the last of", letters.ends),
    ("join", "Join", 'puts "and" between', letters.joined),
)
"""Tasks with letters: name, request, what it does, and the answer."""


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
    return Example(ask(f"Count down from {number}"), line)


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


def unrelated(
    rng: random.Random, size: int, own: str | None = None, share: float = 0.0
) -> list[Item]:
    """Questions of any tasks, each with a line that has nothing to do with it.

    `share` of the questions are for the task `own`, and those have their answers.
    """
    names = [name for name in sorted(list_tasks()) if name != own]
    found = []
    for _ in range(size):
        if own is not None and rng.random() < share:
            found.append(_item(rng, own, False))
        else:
            item = _item(rng, rng.choice(names), False)
            found.append(Item(item.task, item.question, _line(rng)))
    return found


def _line(rng: random.Random) -> str:
    """A fact, a sum, or the answer to another question."""
    kind = rng.choices(("fact", "sum", "answer"), (0.4, 0.2, 0.4))[0]
    if kind == "answer":
        return _item(rng, rng.choice(sorted(list_tasks())), False).line
    if kind == "sum":
        a, b = letters.operands(rng, evaluated=False)
        return f"{a} + {b} = {a + b}."
    person = rng.choice([one for one in world().people if not one.held_out])
    number = rng.randrange(len(world().relations))
    relation = world().relations[number]
    # What it begins with tells nothing: someone's name.
    wordings = [number for number, text in enumerate(relation.statements) if text[0] == "{"]
    return statement(relation, person, person.facts[number], rng.choice(wordings))


def _item(rng: random.Random, name: str, evaluated: bool) -> Item:
    example = list_tasks()[name].sample(rng, evaluated)
    return Item(name, example.messages[-1]["content"], example.answer)


def conversation(items: Sequence[Item]) -> str:
    """A list and its answer, but for the beginning and the end of the text."""
    return f"{opening(items)}{answer(items)}"


def opening(items: Sequence[Item]) -> str:
    """A list up to where the assistant begins to speak."""
    return f"{USER}{prompt(items)}{END}{ASSISTANT}"
