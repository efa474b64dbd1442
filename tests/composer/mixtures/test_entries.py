"""Sparse vectors: their products, and what an index of many words needs."""

from __future__ import annotations

import itertools
import math
import random
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from composer.mixtures import tfidf
from composer.mixtures.entries import Entries, Floats, products
from composer.mixtures.similarity import MAX_PROBES, NEIGHBOURS
from composer.mixtures.tfidf import PromptSimilarity

MIB = 2**20


@pytest.mark.parametrize(
    ("count", "words", "filled"), [(7, 5, 0.5), (90, 400, 0.05), (90, 2000, 0.9)]
)
def test_products_are_those_of_dense_matrices(count: int, words: int, filled: float) -> None:
    rng = np.random.default_rng(0)
    inside = rng.random((count, words)) < filled
    inside[3] = False  # an empty text
    ours, theirs = rng.random((2, count, words)) * inside
    owners, terms = np.nonzero(inside)
    chosen = np.arange(0, count, 2)
    vectors = Entries(owners, terms * 3, ours[inside])  # most terms are of other experts
    found = products(vectors, theirs[inside], chosen, count)
    np.testing.assert_allclose(found, theirs[chosen] @ ours.T, rtol=1e-12, atol=1e-15)


def test_familiarity_with_more_examples_than_probes_is_that_of_dense_matrices() -> None:
    rng = random.Random(0)
    words = ["".join(pair) for pair in itertools.product("abcdefghijklmnopqrst", repeat=2)]
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 60))) for _ in range(3 * MAX_PROBES)]
    counts = np.array([[text.split().count(word) for word in words] for text in texts])
    frequency, total = (counts > 0).sum(0), len(texts)
    every = _unit(counts * (np.log((1 + total) / (1 + frequency)) + 1))
    others = np.maximum(frequency - (counts > 0), 1)  # a word of no other text counts as of one
    alone = _unit(counts * (np.log(total / (1 + others)) + 1))
    probes = np.linspace(0, total - 1, MAX_PROBES, dtype=np.int64)
    cosines = (alone @ every.T)[probes]
    own = [
        np.sort(np.delete(row, probe))[-NEIGHBOURS:].mean()
        for row, probe in zip(cosines, probes, strict=True)
    ]
    nearest = np.sort(every @ every[5])[-NEIGHBOURS:].mean()
    found = PromptSimilarity({"a": texts}).familiarity(texts[5], ["a"])["a"]
    assert found == pytest.approx(nearest / np.mean(own), rel=1e-12)


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_a_profile_of_many_different_words_needs_little_memory() -> None:
    """The largest profile: [texts, words] would be 0.8 GiB."""
    letters = itertools.product("abcdefghijklmnopqrstuvwxyz", repeat=3)
    words = iter(f"{a}{b}{c}{d}" for a, b, c in letters for d in "xyz")
    texts = [" ".join(itertools.islice(words, 26)) for _ in range(2000)]
    assert sum(map(len, texts)) < MIB / 4
    tracemalloc.start()
    try:
        PromptSimilarity({"a": texts})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * MIB


def test_a_text_is_read_once_however_many_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    index = PromptSimilarity({name: [f"sort {name}", "add 1"] for name in "abcdefgh"})
    read, terms = [], tfidf.terms

    def watched(text: str) -> Counter[str]:
        read.append(text)
        return terms(text)

    monkeypatch.setattr(tfidf, "terms", watched)
    familiarity = index.familiarity("sort a", "abcdefgh")
    assert math.fsum(familiarity.values()) > 0
    assert read == ["sort a"]


def test_the_time_that_is_told_grows_with_the_text_and_the_examples() -> None:
    few = PromptSimilarity({"a": ["sort b a"]})
    many = PromptSimilarity({"a": ["sort b a"], "b": [f"{n * 'x'} y" for n in range(1, 2000)]})
    text = "What is 3 + 4?"
    assert few.seconds("", 0) == 0
    assert few.seconds(text, 0) < few.seconds(text, 1) < few.seconds(text, 8)
    assert few.seconds(text, 8) < few.seconds(text * 100, 8)
    assert few.seconds(text, 8) < many.seconds(text, 8)
