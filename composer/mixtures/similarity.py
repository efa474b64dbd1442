"""Similarity of a text to each expert's examples, whatever turns texts into vectors.

    weights       pi_k ~ exp(-|h(x) - c_k|^2 / temperature)
    familiarity   f_k = s_k(x) / mean of s_k(e) over the examples e of expert k

The weights are those of c-BTM (Gururangan et al. 2023, section 2.3): `h(x)` is the vector of a
text, and `c_k` the mean of the vectors of the expert's examples, where the paper's centres come
from clustering. Its released code differs: it squares a distance that is a square already, at
temperature 1 (`downstream_tasks/estimate_cluster.py` of kernelmachine/cbtm). The weights say which
expert is nearest, not whether it is near. The familiarity does: `s_k(x)` is the mean cosine of the
text and the `NEIGHBOURS` most similar examples, and each example `e` is compared with the others
only. So 1 is a text as similar to the examples as they are to each other, however much an expert's
examples vary, and 0 is a text that has nothing in common with them. Distances to the nearest
neighbours, with a threshold that the examples set, are a standard test for foreign inputs (Sun et
al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors", arXiv:2204.06507).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from composer.mixtures.specs import PROMPT_TEMPERATURE, normalized

Floats = npt.NDArray[np.float64]

NEIGHBOURS = 10
"""Examples of an expert that a text is compared with: those most similar to it."""

MAX_PROBES = 64
"""Examples of an expert that are compared with its others, evenly spaced if it has more."""


class Similarity(ABC):
    """Weighs experts by their examples. Immutable and deterministic."""

    none_below: float
    """Default familiarity below which a text counts as foreign; measured, see docs/routing.md."""

    def __init__(self, names: Sequence[str], own_similarities: Floats) -> None:
        """Take what subclasses have computed.

        Args:
            names: of the experts, sorted.
            own_similarities: `[experts]`, the mean similarity of an expert's examples to its other
                examples; NaN for an expert with a single one.
        """
        self._index = {name: k for k, name in enumerate(names)}
        known = own_similarities[~np.isnan(own_similarities)]
        # An expert with one text, such as a description, cannot say how much its prompts vary:
        # assume that they vary as those of the other experts do.
        typical = known.mean() if len(known) else 1.0
        filled = np.where(np.isnan(own_similarities), typical, own_similarities)
        self._own_similarities: Floats = np.maximum(filled, np.finfo(np.float64).tiny)

    @abstractmethod
    def distances(self, text: str) -> Floats:
        """Return `[experts]`: squared distances of a text from the centres, all 0 if the text has
        no vector."""

    @abstractmethod
    def similarities(self, text: str, experts: Iterable[int]) -> Iterable[Floats]:
        """Return `[examples]` for each of `experts`: cosines of a text and its examples."""

    @abstractmethod
    def seconds(self, text: str, experts: int) -> float:
        """Return an upper estimate of the time to weigh a text and to compare it with so many
        experts; infinite if it cannot be told."""

    @cached_property
    def names(self) -> frozenset[str]:
        """The experts that have examples."""
        return frozenset(self._index)

    def weights(
        self,
        text: str,
        temperature: float = PROMPT_TEMPERATURE,
        names: Collection[str] | None = None,
    ) -> dict[str, float]:
        """Return weights of all experts, or of `names`, that sum to one.

        The weights are equal if the text has nothing in common with any example.

        Raises:
            KeyError: one of `names` has no examples.
        """
        distances = self.distances(text)
        chosen = self._index if names is None else names
        if names is not None:
            distances = distances[[self._index[name] for name in names]]
        scores = np.exp((distances.min() - distances) / temperature)
        return normalized(dict(zip(chosen, scores.tolist(), strict=True)))

    def familiarity(self, text: str, names: Iterable[str]) -> dict[str, float]:
        """Return how similar a text is to examples of experts, relative to their own examples.

        Raises:
            KeyError: one of `names` has no examples.
        """
        experts = {name: self._index[name] for name in names}
        similarities = self.similarities(text, experts.values())
        return {
            name: nearest(cosines) / float(self._own_similarities[k])
            for (name, k), cosines in zip(experts.items(), similarities, strict=True)
        }


def nearest(similarities: Floats) -> float:
    """Return the mean of the `NEIGHBOURS` largest similarities, of which there is at least one."""
    return float(np.sort(similarities)[-NEIGHBOURS:].mean())


def own_similarity(cosines: Floats, indices: npt.NDArray[np.int64]) -> float:
    """Return the mean similarity of examples to the other ones; NaN if there are no others.

    Args:
        cosines: `[probes, examples]` of some of the examples with all.
        indices: which example each probe is.
    """
    if cosines.shape[1] < 2:
        return math.nan
    others = cosines.copy()
    others[np.arange(len(indices)), indices] = -np.inf
    ranked = np.sort(others, axis=1)[:, 1:]  # without the probe itself
    return float(ranked[:, -NEIGHBOURS:].mean())
