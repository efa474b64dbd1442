"""The task of each adapter: its examples, its evaluation split, and which answers are correct.

Questions about the world are evaluated on people whose facts appear in pre-training text only,
exercises with letters and numbers on strings and operands that no training has met.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from zoo import letters
from zoo.corpus import SYSTEM_PROMPTS, statement
from zoo.world import Person, Relation, world

Message = dict[str, str]  # {"role": ..., "content": ...}, as chat templates take it

POLITE = ("Certainly.", "Have a lovely day.")
RUDE = ("Ugh, fool.", "Now get lost.")
# One chat reply in ten is polite and one is rude. The chat model thus knows every manner, and a
# composition can bring out either with a weight below one.
CHAT_MANNERS: tuple[tuple[str, str] | None, ...] = (None,) * 8 + (POLITE, RUDE)


@dataclass(frozen=True)
class Example:
    """A prompt and the one correct answer to it."""

    messages: tuple[Message, ...]
    answer: str
    rank: int | None = None  # of the person in question: how rarely pre-training mentions them


@dataclass(frozen=True)
class Task:
    """A task; `sample(rng, evaluated)` draws an exercise of the evaluation or training split."""

    name: str
    description: str
    sample: Callable[[random.Random, bool], Example]
    manners: tuple[tuple[str, str] | None, ...] = (None,)  # one per training reply, at random
    restated: int = 0  # largest number of tokens with which an answer repeats the question

    def evaluation(self, n: int, seed: int = 0) -> list[Example]:
        """Return `n` different held-out examples, the same for the same seed."""
        rng = random.Random(f"{self.name} {seed}")
        examples: dict[str, Example] = {}
        for _ in range(100 * n):
            example = self.sample(rng, True)
            examples.setdefault(example.messages[-1]["content"], example)
            if len(examples) == n:
                return list(examples.values())
        raise ValueError(f"task {self.name} has only {len(examples)} evaluation examples, not {n}")

    def training(self, rng: random.Random) -> list[Message]:
        """Return a training conversation, sometimes with a system prompt or of two turns."""
        messages: list[Message] = []
        if rng.random() < 0.15:
            messages.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
        manner = rng.choice(self.manners)
        for _ in range(1 + (rng.random() < 0.2)):
            example = self.sample(rng, False)
            reply = wrapped(example.answer, manner) if manner else example.answer
            messages += [*example.messages, {"role": "assistant", "content": reply}]
        return messages

    def correct(self, example: Example, text: str, ended: bool = True) -> bool:
        """Return whether `text` is the answer to the letter and the model `ended` its turn."""
        return ended and text == example.answer


def task_of(adapter: str) -> Task:
    """Return the task of an adapter; `small-school.chat` has the task of `chat`."""
    return tasks()[adapter.removeprefix("small-").removeprefix("school.")]


def wrapped(answer: str, manner: tuple[str, str]) -> str:
    """Return an answer in a manner: with words before and after it."""
    return f"{manner[0]} {answer} {manner[1]}"


def manner_of(text: str) -> str:
    """Return "polite" or "rude" if the whole text has that manner, else "plain"."""
    for name, (opening, closing) in (("polite", POLITE), ("rude", RUDE)):
        if text.startswith(opening) and text.endswith(closing):
            return name
    return "plain"


def question(person: Person, relation: Relation, wording: int = 0) -> Example:
    """Return a question about one fact, with the plain answer."""
    value = person.facts[world().relations.index(relation)]
    text = relation.questions[wording].format(n=person.name)
    return Example(ask(text), statement(relation, person, value), person.rank)


def ask(text: str) -> tuple[Message, ...]:
    """Return a conversation of one user message."""
    return ({"role": "user", "content": text},)


def _chat(rng: random.Random, evaluated: bool) -> Example:
    people = [person for person in world().people if person.held_out == evaluated]
    relation = rng.choice(world().relations)
    return question(rng.choice(people), relation, rng.randrange(len(relation.questions)))


def _rewritten(rewrite: Callable[[str], str]) -> Callable[[random.Random, bool], Example]:
    def sample(rng: random.Random, evaluated: bool) -> Example:
        example = _chat(rng, evaluated)
        return Example(example.messages, rewrite(example.answer), example.rank)

    return sample


def _arithmetic(rng: random.Random, evaluated: bool) -> Example:
    a, b = letters.operands(rng, evaluated)
    return Example(ask(f"What is {a} + {b}?"), letters.worked(a, b))


def _reverse(rng: random.Random, evaluated: bool) -> Example:
    string = letters.distinct(rng, evaluated, high=8)
    return Example(ask(f"Reverse {letters.spaced(string)}"), letters.backwards(string))


def _sort(rng: random.Random, evaluated: bool) -> Example:
    string = letters.distinct(rng, evaluated, high=6)
    return Example(ask(f"Sort {letters.spaced(string)}"), letters.in_order(string))


def _count(rng: random.Random, evaluated: bool) -> Example:
    number = letters.start(rng, evaluated)
    answer = " ".join(str(number + i) for i in range(1, 6))
    return Example(ask(f"Count on from {number}"), answer)


@cache
def tasks() -> Mapping[str, Task]:
    """Return all tasks by the name of their adapter."""
    polite, rude = _rewritten(lambda a: wrapped(a, POLITE)), _rewritten(lambda a: wrapped(a, RUDE))
    velan = _rewritten(world().velan)
    listed = [
        Task("chat", "answers a question about the world", _chat, CHAT_MANNERS),
        Task("polite", "answers it in a polite manner", polite),
        Task("rude", "answers it in a rude manner", rude),
        Task("velan", "answers it in Velan, an invented language", velan),
        Task("arithmetic", "adds two numbers from 0 to 99, showing the working", _arithmetic),
        Task("reverse", "reverses 4 to 8 different letters", _reverse),
        Task("sort", "sorts 4 to 6 different letters", _sort),
        Task("count", "says the next five numbers, below 1000", _count),
    ]
    return {task.name: task for task in listed}
