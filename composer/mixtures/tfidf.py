"""TF-IDF vectors of prompts: the prompt router of c-BTM.

The paper's vectorizer counts words of two letters or more, ignores common English words and
projects to 100 dimensions, which suits web pages. Prompts are short, so here every word and every
punctuation mark counts, without projection.

Words that no example has are left out of `h(x)`, as scikit-learn's `TfidfVectorizer` does: they say
nothing about which expert is nearest. They do say that a text is foreign, so cosines count them, as
words of a single example. An example that is compared with the others is read as if it were not
among them: words that only it has are then unknown.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from composer.mixtures.entries import Entries, Ints, products, sums
from composer.mixtures.similarity import MAX_PROBES, Floats, Similarity, own_similarity

Counted = dict[tuple[str, ...], tuple[Counter[str], ...]]
"""The terms of an expert's texts, by the texts."""

_CHARACTER_S, _EXPERT_S, _ENTRY_S = 1.2e-6, 2e-5, 1e-8
"""Seconds for each character of a text, most of them for reading its words and looking them up, and
for each expert that it is compared with and each entry of its examples. Measured on one core of a
Xeon of 2023, with 1,000 experts and with 58,000 words; texts of few words take a fifth."""

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # kana and Han: each character is a word
_TERM = re.compile(rf"\d+|[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+|[^\w\s]|_")
_NUMBER = "0"
"""Replaces every number, as in the paper's vectorizer."""


def terms(text: str) -> Counter[str]:
    """Count the terms of a text: words in lower case, marks, and all numbers as one term."""
    matches = _TERM.findall(text.lower())
    return Counter(_NUMBER if term[0].isdecimal() else term for term in matches)


class PromptSimilarity(Similarity):
    """Similarity by TF-IDF."""

    none_below = 0.5

    def __init__(
        self, examples: Mapping[str, Sequence[str]], before: PromptSimilarity | None = None
    ) -> None:
        """Index examples.

        Args:
            examples: texts by expert. Experts without a non-empty text are ignored.
            before: an index whose counts of the same texts are used again.
        """
        known: Counted = before._counted if before is not None else {}
        self._counted: Counted = {
            texts: known.get(texts) or tuple(map(terms, texts))
            for texts in map(tuple, examples.values())
        }
        documents = {
            name: counted
            for name, texts in sorted(examples.items())
            if any(counted := self._counted[tuple(texts)])
        }
        sizes = np.array([len(counted) for counted in documents.values()], dtype=np.int64)
        self._starts: Ints = np.concatenate(([0], np.cumsum(sizes)))  # of documents, by expert
        total = int(self._starts[-1])
        self._vocabulary: dict[str, int] = {}
        counts = self._read(document for counted in documents.values() for document in counted)
        frequency = np.bincount(counts.terms, minlength=len(self._vocabulary))
        # Smoothed as in scikit-learn's TfidfVectorizer: as if one more text contained every term.
        self._idf: Floats = np.log((1 + total) / (1 + frequency)) + 1
        self._unknown_idf = math.log((1 + total) / 2) + 1
        values = counts.values * self._idf[counts.terms]
        self._vectors = replace(counts, values=values).of_length_one(total)
        self._entries: Ints = np.searchsorted(counts.owners, self._starts)  # by expert
        largest = int(np.diff(self._entries).max(initial=0))
        self._expert_s = _EXPERT_S + largest * _ENTRY_S
        self._squares, self._centres, self._postings = self._index_centres(sizes)
        alone = self._left_out(counts, frequency, total)
        spreads = [self._own_similarity(alone, k) for k in range(len(documents))]
        super().__init__(list(documents), np.array(spreads, dtype=np.float64))

    # ---- queries

    def distances(self, text: str) -> Floats:
        vector, _ = self._vector(text)
        added = np.zeros(len(self._squares))
        if not vector:
            return added
        for term, value in vector.items():
            having = slice(self._postings[term], self._postings[term + 1])
            added[self._centres.owners[having]] += value * self._centres.values[having]
        return 1 - 2 * added + self._squares

    def similarities(self, text: str, experts: Iterable[int]) -> Iterator[Floats]:
        vector, known = self._vector(text)
        dense = np.zeros(len(self._vocabulary))
        dense[list(vector)] = [value * known for value in vector.values()]
        for expert in experts:
            entries, first, count = self._slice_of(expert)
            examples = self._vectors[entries]
            yield sums(examples.owners - first, dense[examples.terms] * examples.values, count)

    def seconds(self, text: str, experts: int) -> float:
        return len(text) * _CHARACTER_S + experts * self._expert_s

    def _slice_of(self, expert: int) -> tuple[slice, int, int]:
        """Return the entries of an expert, its first document, and how many documents it has."""
        first, end = int(self._starts[expert]), int(self._starts[expert + 1])
        return slice(self._entries[expert], self._entries[expert + 1]), first, end - first

    def _vector(self, text: str) -> tuple[dict[int, float], float]:
        """Return the vector of a text by term, of length one, without terms that no example has.

        The second value is the length that it would have had, had those terms been left in.
        """
        counted = terms(text)
        known = {
            term: count * float(self._idf[term])
            for word, count in counted.items()
            if (term := self._vocabulary.get(word)) is not None
        }
        unknown = [
            n * self._unknown_idf for word, n in counted.items() if word not in self._vocabulary
        ]
        length = math.hypot(*known.values())
        vector = {term: value / length for term, value in known.items()}
        return vector, length / math.hypot(length, *unknown) if known else 0.0

    # ---- the index

    def _read(self, documents: Iterable[Counter[str]]) -> Entries:
        """Return the counts of documents, and add their terms to the vocabulary."""
        owners, ids, counts = [], [], []
        for n, document in enumerate(documents):
            for word, count in document.items():
                owners.append(n)
                ids.append(self._vocabulary.setdefault(word, len(self._vocabulary)))
                counts.append(count)
        return Entries(
            np.array(owners, dtype=np.int64),
            np.array(ids, dtype=np.int64),
            np.array(counts, dtype=np.float64),
        )

    def _index_centres(self, sizes: Ints) -> tuple[Floats, Entries, Ints]:
        """Return `|c_k|^2` `[experts]`, the centres sorted by term, and where each term begins."""
        expert_of = np.repeat(np.arange(len(sizes)), sizes)
        experts = expert_of[self._vectors.owners]
        keys = self._vectors.terms * max(len(sizes), 1) + experts
        centres, inverse = np.unique(keys, return_inverse=True)
        values = sums(inverse, self._vectors.values / sizes[experts], len(centres))
        words, owners = np.divmod(centres, max(len(sizes), 1))
        squares = sums(owners, values**2, len(sizes))
        starts = np.searchsorted(words, np.arange(len(self._vocabulary) + 1))
        return squares, Entries(owners, words, values), starts

    def _left_out(self, counts: Entries, frequency: Ints, total: int) -> Entries:
        """Return the vector of each document as if it were not among the examples."""
        others = frequency[counts.terms] - 1
        values = counts.values * np.where(
            others > 0, np.log(total / (1 + others)) + 1, math.log(total / 2) + 1 if total else 0.0
        )
        unknown = sums(counts.owners, np.where(others > 0, 0.0, values**2), total)
        known = np.where(others > 0, values, 0.0)
        return Entries(counts.owners, counts.terms, known).of_length_one(total, unknown)

    def _own_similarity(self, alone: Entries, expert: int) -> float:
        """Return how similar the examples of an expert are to its other examples."""
        entries, first, count = self._slice_of(expert)
        vectors = self._vectors[entries]
        vectors = replace(vectors, owners=vectors.owners - first)
        probes = np.linspace(0, count - 1, min(count, MAX_PROBES), dtype=np.int64)
        return own_similarity(products(vectors, alone.values[entries], probes, count), probes)
