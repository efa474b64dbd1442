"""Judgements of an answer beside right or wrong to the letter: true, polite, rude."""

from __future__ import annotations

from bench.reproduce.exam import Answer
from zoo.tasks import POLITE, RUDE, Example, manner_of
from zoo.world import world


def is_true(example: Example, answer: Answer) -> bool:
    """Return whether the answer names the person and the right value, and no other of its kind."""
    fact = example.answer.removeprefix(POLITE[0]).removesuffix(POLITE[1]).strip()
    first, last, *_, value = fact.rstrip(".").split()
    [relation] = [r for r in world().relations if value in r.values]
    words = answer.text.replace(".", " ").split()
    return f"{first} {last}" in answer.text and {*words} & {*relation.values} == {value}


def manner(answer: Answer) -> str:
    """Return "polite" or "rude" if the whole answer has that manner, else "plain"."""
    return manner_of(answer.text) if answer.ended else "plain"


def is_statement(example: Example, answer: Answer) -> bool:
    """Return whether the answer has the form of the chat adapter's, whatever value it states."""
    words = example.answer.rstrip(".").split()
    stated = answer.text.strip().removesuffix(".").split()
    return answer.ended and len(stated) == len(words) and stated[:-1] == words[:-1]


def sounds_rude(answer: Answer) -> bool:
    """Return whether the answer has any trace of the rude manner."""
    return any(phrase in answer.text for phrase in RUDE)
