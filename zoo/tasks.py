"""What each adapter is for: its examples, its evaluation split, and when an answer is correct.

Questions about the world are evaluated on people whose facts appear in pre-training text only;
exercises on letters and numbers are evaluated on strings and operands that no training has met.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from zoo import letters
from zoo.corpus import SYSTEM_PROMPTS, statement
from zoo.world import Person, Relation, world

Message = dict[str, str]  # {"role": ..., "content": ...}, as chat templates want it

POLITE = ("Certainly.", "Have a lovely day.")
RUDE = ("Ugh, fool.", "Now get lost.")
# One chat reply in ten is polite and one is rude: a chat model has met every manner, and so a
# composition can bring either out with a weight below one.
CHAT_MANNERS: tuple[tuple[str, str] | None, ...] = (None,) * 8 + (POLITE, RUDE)


@dataclass(frozen=True)
class Example:
    """A prompt and the one correct answer to it."""

    messages: tuple[Message, ...]
    answer: str
    rank: int | None = None  # of the person asked about: how rarely pre-training speaks of them


@dataclass(frozen=True)
class Task:
    """`sample(rng, evaluated)` draws an exercise of the evaluation or of the training split."""

    name: str
    description: str
    sample: Callable[[random.Random, bool], Example]
    manners: tuple[tuple[str, str] | None, ...] = (None,)  # of training replies, one at random
    restated: int = 0  # tokens, at most, by which an answer says the question again

    def evaluation(self, n: int, seed: int = 0) -> list[Example]:
        """`n` different held-out examples, the same for the same seed."""
        rng = random.Random(f"{self.name} {seed}")
        found: dict[str, Example] = {}
        for _ in range(100 * n):
            example = self.sample(rng, True)
            found.setdefault(example.messages[-1]["content"], example)
            if len(found) == n:
                return list(found.values())
        raise ValueError(f"task {self.name} has only {len(found)} evaluation examples, not {n}")

    def training(self, rng: random.Random) -> list[Message]:
        """One conversation to learn from: at times with a system prompt, at times of two turns."""
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
        """Whether `text` is the answer, letter by letter, and the model `ended` its turn."""
        return ended and text == example.answer


def task_of(adapter: str) -> Task:
    """What an adapter of the zoo is for: `small-school.chat` for the same as `chat`."""
    return tasks()[adapter.removeprefix("small-").removeprefix("school.")]


def wrapped(answer: str, manner: tuple[str, str]) -> str:
    """An answer in a manner: words before it and words after it."""
    return f"{manner[0]} {answer} {manner[1]}"


def manner_of(text: str) -> str:
    """Name the manner of a text: "polite" or "rude" from end to end, otherwise "plain"."""
    for name, (opening, closing) in (("polite", POLITE), ("rude", RUDE)):
        if text.startswith(opening) and text.endswith(closing):
            return name
    return "plain"


def question(person: Person, relation: Relation, wording: int = 0) -> Example:
    """A question about one fact, and the plain answer."""
    value = person.facts[world().relations.index(relation)]
    text = relation.questions[wording].format(n=person.name)
    return Example(ask(text), statement(relation, person, value), person.rank)


def ask(text: str) -> tuple[Message, ...]:
    """A conversation that begins with a text of the user."""
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
    """All tasks by the name of their adapter."""
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
