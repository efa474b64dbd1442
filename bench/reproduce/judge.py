"""What an answer is apart from right or wrong to the letter: true, polite, rude."""

from __future__ import annotations

from bench.reproduce.exam import Answer
from zoo.tasks import POLITE, RUDE, Example, manner_of
from zoo.world import world


def is_true(example: Example, answer: Answer) -> bool:
    """It names the person, the right value and no other of its kind, in whatever manner."""
    fact = example.answer.removeprefix(POLITE[0]).removesuffix(POLITE[1]).strip()
    first, last, *_, value = fact.rstrip(".").split()
    [relation] = [one for one in world().relations if value in one.values]
    words = answer.text.replace(".", " ").split()
    return f"{first} {last}" in answer.text and {*words} & {*relation.values} == {value}


def manner(answer: Answer) -> str:
    """ "polite" or "rude" from end to end and no further; otherwise "plain"."""
    return manner_of(answer.text) if answer.ended else "plain"


def is_statement(example: Example, answer: Answer) -> bool:
    """It has the form of the chat adapter's answers to the question, whatever value it states."""
    words = example.answer.rstrip(".").split()
    said = answer.text.strip().removesuffix(".").split()
    return answer.ended and len(said) == len(words) and said[:-1] == words[:-1]


def sounds_rude(answer: Answer) -> bool:
    """Any trace of the rude manner."""
    return any(phrase in answer.text for phrase in RUDE)
