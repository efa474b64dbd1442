"""Similarity by vectors of a sentence encoder, which finds paraphrases that share no words.

The vectors have length one, so that products of two are cosines. `composer` knows no encoder: the
server has one (`server.compose.routing.sentence_encoder`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from composer.mixtures.similarity import MAX_PROBES, Floats, Similarity, own_similarity

MAX_CHARACTERS = 4096
"""Of a text, whose rest does not count: an encoder reads a few hundred tokens."""

_REMEMBERED = 256
"""Texts of requests whose vectors are kept: one request asks for the same vector several times."""


class Encoder(Protocol):
    """Turns texts into vectors."""

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return `[texts, size]` of length one each."""


class EncodedSimilarity(Similarity):
    """Similarity by a sentence encoder."""

    none_below = 0.6

    def __init__(
        self,
        encoder: Encoder,
        examples: Mapping[str, Sequence[str]],
        before: EncodedSimilarity | None = None,
    ) -> None:
        """Encode examples.

        Args:
            encoder: of examples and of texts.
            examples: texts by expert. Experts without a non-empty text are ignored.
            before: an index by the same encoder, whose vectors of the same texts are used again.
        """
        documents = {
            name: cut
            for name, texts in sorted(examples.items())
            if (cut := [text[:MAX_CHARACTERS] for text in texts if not _is_blank(text)])
        }
        known: dict[str, Floats] = before._encoded if before is not None else {}
        texts = list(dict.fromkeys(text for cut in documents.values() for text in cut))
        new = [text for text in texts if text not in known]
        encoded = dict(zip(new, encoder.encode(new), strict=True)) if new else {}
        self._encoded: dict[str, Floats] = {
            text: known[text] if text in known else encoded[text] for text in texts
        }
        self._vectors = [np.stack([self._encoded[t] for t in cut]) for cut in documents.values()]
        self._centres = np.array([vectors.mean(0) for vectors in self._vectors])
        self._vector = lru_cache(_REMEMBERED)(lambda text: encoder.encode([text])[0])
        spreads = [_own_similarity(vectors) for vectors in self._vectors]
        super().__init__(list(documents), np.array(spreads, dtype=np.float64))

    def distances(self, text: str) -> Floats:
        if _is_blank(text):
            return np.zeros(len(self._centres))
        offsets = self._centres - self._vector(text[:MAX_CHARACTERS])
        return np.asarray(np.square(offsets).sum(-1), dtype=np.float64)

    def similarities(self, text: str, experts: Iterable[int]) -> Iterator[Floats]:
        vector = None if _is_blank(text) else self._vector(text[:MAX_CHARACTERS])
        for expert in experts:
            vectors = self._vectors[expert]
            yield np.zeros(len(vectors)) if vector is None else vectors @ vector

    def seconds(self, text: str, experts: int) -> float:
        return 0.0 if _is_blank(text) else math.inf


def _is_blank(text: str) -> bool:
    return not text[:MAX_CHARACTERS].strip()


def _own_similarity(vectors: Floats) -> float:
    """Return how similar the examples of an expert, `[examples, size]`, are to its others."""
    probes = np.linspace(0, len(vectors) - 1, min(len(vectors), MAX_PROBES), dtype=np.int64)
    return own_similarity(vectors[probes] @ vectors.T, probes)
