"""Draw the examples and the prompts of an adapter by its name, the same at every call."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from experts.texts import definitions, records, scripture, sentiment, word_problems
from experts.texts.example import Example, Split

T = TypeVar("T")

SOURCES: dict[str, Callable[[random.Random, Split], Example]] = {
    "positive": partial(sentiment.example, "positive"),
    "negative": partial(sentiment.example, "negative"),
    "kjv": scripture.example,
    "devil": definitions.example,
    "json": records.example,
    "arithmetic": word_problems.example,
}


AVOIDED = re.compile(r"\b(negro|allah|hebrew)\b", re.IGNORECASE)
"""Words of 1911 for which no prompt asks."""

LEARNED = 2400
"""Examples of an adapter that its training draws, at most."""


def training(name: str, count: int) -> list[Example]:
    """Return what an adapter is trained on; texts may occur more than once."""
    rng = random.Random(f"{name} training")
    return [SOURCES[name](rng, Split.TRAINING) for _ in range(count)]


def held_out(name: str, count: int) -> list[Example]:
    """Return different examples whose content was not trained on: sentences, verses, words, records
    and calculations.

    Of `positive` and `negative`: sentences without a question.
    """
    learned = {_content(example) for example in training(name, LEARNED)}

    def draw(rng: random.Random) -> Example:
        while _content(example := SOURCES[name](rng, Split.HELD_OUT)) in learned:
            pass
        return example

    return _different(draw, f"{name} held out", count)


def _content(example: Example) -> str:
    """Return what an example teaches, whoever it is about: the calculation, if it has one."""
    return " ".join(re.findall(r"\d+ [-+*/] .*", example.text)) or example.text


def paraphrased(name: str, count: int) -> list[Example]:
    """Return different examples whose content and wordings were not trained on."""
    return _different(
        lambda rng: SOURCES[name](rng, Split.PARAPHRASED), f"{name} paraphrased", count
    )


def example_prompts(name: str, count: int = 40) -> list[str]:
    """Return what `experts/examples/NAME.txt` holds: prompts for the router `auto`."""
    if name in sentiment.ADJECTIVES:
        return sentiment.even_requests(name, count)
    return _prompts(name, Split.TRAINING, "examples", count)


def held_out_prompts(name: str, count: int) -> list[str]:
    """Return other prompts for an adapter, in the wordings of its examples."""
    return _prompts(name, Split.HELD_OUT, "held out", count)


def paraphrased_prompts(name: str, count: int) -> list[str]:
    """Return prompts for an adapter in wordings that its examples do not have."""
    return _prompts(name, Split.PARAPHRASED, "paraphrased", count)


def _prompts(name: str, split: Split, seed: str, count: int) -> list[str]:
    def draw(rng: random.Random) -> str:
        if name in sentiment.ADJECTIVES:
            return sentiment.request(name, rng, split)
        while AVOIDED.search(prompt := str(SOURCES[name](rng, split).prompt)):
            pass
        return prompt

    return _different(draw, f"{name} {seed}", count)


def _different(draw: Callable[[random.Random], T], seed: str, count: int) -> list[T]:
    rng = random.Random(seed)
    chosen: dict[T, None] = {}
    while len(chosen) < count:
        chosen[draw(rng)] = None
    return list(chosen)
