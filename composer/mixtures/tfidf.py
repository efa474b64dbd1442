"""Similarity of a text to each expert's examples: the prompt router of c-BTM.

    pi_k ~ exp(-|h(x) - c_k|^2 / temperature)

as in Gururangan et al. 2023, section 2.3. Their released code differs: it squares a distance that
is a square already, at temperature 1 (`downstream_tasks/estimate_cluster.py` of
kernelmachine/cbtm). `h(x)` is the TF-IDF vector of a text, scaled to length one; `c_k` is the mean
of the vectors of the expert's examples, where the paper's centres come from clustering. The paper's
vectorizer counts words of two letters or more, ignores common English words and projects to 100
dimensions, which suits web pages. Prompts are short, so here every word and every punctuation mark
counts, without projection.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from composer.mixtures.specs import PROMPT_TEMPERATURE, normalized

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # kana and Han: each character is a word
_TERM = re.compile(rf"\d+|[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+|[^\w\s]|_")
_NUMBER = "0"
"""Replaces every number, as in the paper's vectorizer."""


class PromptSimilarity:
    """Weighs experts by their examples. Immutable and deterministic."""

    def __init__(self, examples: Mapping[str, Sequence[str]]) -> None:
        """`examples`: texts by expert. Ignore experts without a non-empty text."""
        counted = {
            name: [terms(text) for text in texts]
            for name, texts in sorted(examples.items())
            if any(map(terms, texts))
        }
        self._names = tuple(counted)
        documents = [document for texts in counted.values() for document in texts]
        frequency = Counter(term for document in documents for term in document)
        # Smoothed as in scikit-learn's TfidfVectorizer: as if one more text contained every term.
        self._idf = {
            term: math.log((1 + len(documents)) / (1 + count)) + 1
            for term, count in frequency.items()
        }
        squares = []
        postings: dict[str, list[tuple[int, float]]] = {term: [] for term in self._idf}
        for k, texts in enumerate(counted.values()):
            centre = self._centre(texts)
            squares.append(math.fsum(value * value for value in centre.values()))
            for term, value in centre.items():
                postings[term].append((k, value))
        self._squares = np.array(squares)  # [experts], |c_k|^2
        # By term, because a text contains few of all terms: indices of experts, and their values.
        self._centres = {
            term: (np.array([k for k, _ in having]), np.array([value for _, value in having]))
            for term, having in postings.items()
        }

    @property
    def names(self) -> frozenset[str]:
        """The experts that have examples."""
        return frozenset(self._names)

    def weights(
        self,
        text: str,
        temperature: float = PROMPT_TEMPERATURE,
        names: Collection[str] | None = None,
    ) -> dict[str, float]:
        """Return weights of all experts, or of `names`, that sum to one.

        The weights are equal if the text shares no term with any example.

        Raises:
            KeyError: one of `names` has no examples.
        """
        distances = dict(zip(self._names, self._distances(text).tolist(), strict=True))
        chosen = {name: distances[name] for name in (self._names if names is None else names)}
        nearest = min(chosen.values())
        return normalized({n: math.exp((nearest - d) / temperature) for n, d in chosen.items()})

    def _distances(self, text: str) -> npt.NDArray[np.float64]:
        """Return `[experts]` float64: squared distances of a text from the centres, all 0 if no
        term of the text occurs in an example."""
        vector = self._vector(terms(text))
        if not vector:
            return np.zeros(len(self._names))
        products = np.zeros(len(self._names))
        for term, value in vector.items():
            experts, values = self._centres[term]
            products[experts] += value * values
        distances: npt.NDArray[np.float64] = 1 - 2 * products + self._squares
        return distances

    def _centre(self, texts: Sequence[Counter[str]]) -> dict[str, float]:
        """Return the mean of the vectors of some texts, by term."""
        sums: defaultdict[str, float] = defaultdict(float)
        for text in texts:
            for term, value in self._vector(text).items():
                sums[term] += value / len(texts)
        return sums

    def _vector(self, text: Counter[str]) -> dict[str, float]:
        """Return the TF-IDF vector of a text, by term, of length one; empty if no term is known."""
        vector = {t: count * self._idf[t] for t, count in text.items() if t in self._idf}
        length = math.hypot(*vector.values())
        return {term: value / length for term, value in vector.items()}


def terms(text: str) -> Counter[str]:
    """Count the terms of a text: words in lower case, marks, and all numbers as one term."""
    matches = _TERM.findall(text.lower())
    return Counter(_NUMBER if term[0].isdecimal() else term for term in matches)
