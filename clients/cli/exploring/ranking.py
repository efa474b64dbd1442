"""The samples that say most about an adapter, and the words that set them apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from clients.cli.exploring.samples import Sample

LEAST_TOKENS = 8
"""Shorter samples are left out: a mean over few tokens says little."""

ALIKE = 0.5
"""Two samples of which this share of the words is common to both are one finding."""

_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True, slots=True)
class Word:
    """A word, how much likelier the adapter finds it on average, and in how many samples it is."""

    text: str
    gain: float
    samples: int


def rank(samples: Iterable[Sample]) -> list[Sample]:
    """Return the samples in which the adapter differs most per token, without near-duplicates."""
    kept: list[Sample] = []
    seen: list[set[str]] = []
    for sample in sorted(samples, key=lambda s: s.gain, reverse=True):
        words = set(re.findall(r"\w+", sample.text.lower()))
        if len(sample.tokens) < LEAST_TOKENS or not words:
            continue
        if all(len(words & other) < ALIKE * len(words | other) for other in seen):
            kept.append(sample)
            seen.append(words)
    return kept


def distinctive(samples: Sequence[Sample], count: int) -> list[Word]:
    """Return the words that have gained most, the first most of all; those of several samples only,
    unless there is but one sample.

    What counts is how far all occurrences of a word together are above the mean of all words:
    frequent ones such as "the" gain a little each.
    """
    gains: dict[str, list[float]] = {}
    places: dict[str, set[int]] = {}
    for index, sample in enumerate(samples):
        for word, gain in _words(sample):
            gains.setdefault(word, []).append(gain)
            places.setdefault(word, set()).add(index)
    mean = fmean([gain for values in gains.values() for gain in values] or [0.0])
    above = {word: sum(values) - len(values) * mean for word, values in gains.items()}
    least = min(2, len(samples))
    chosen = [w for w in gains if above[w] > 0 and len(places[w]) >= least]
    chosen.sort(key=lambda word: above[word], reverse=True)
    return [Word(word, fmean(gains[word]), len(places[word])) for word in chosen[:count]]


def _words(sample: Sample) -> Iterator[tuple[str, float]]:
    """Yield each word in lower case with the gain of the tokens that it is in.

    A token counts for the word in which it ends: " un", "known" are both of "unknown".
    """
    text = "".join(sample.tokens)
    ends, place = [], 0
    for token in sample.tokens:
        place += len(token)
        ends.append(place)
    for found in _WORD.finditer(text):
        tokens = [
            g
            for end, g in zip(ends, sample.gains, strict=True)
            if found.start() < end <= found.end()
        ]
        yield found.group().lower(), sum(tokens)
