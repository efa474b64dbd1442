"""The weights of a mixture, by expectation maximization (Dempster, Laird, Rubin 1977).

`S(pi) = sum_t log sum_k pi_k p_k(y_t)` is concave in `pi`, and needs of the models only how likely
each holds every token: one pass over the examples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MAX_STEPS = 10_000
SMALLEST_GAIN = 1e-9  # nats per token and step


def fit_mixture(log_probs: Floats, start: Floats) -> tuple[Floats, bool]:
    """Return the most likely weights, `[K]`, and whether the search converged.

    Args:
        log_probs: `[K, T]`, nats, of every token under every expert.
        start: `[K]`, positive, with sum one.
    """
    likely = np.exp(log_probs - log_probs.max(0))  # [K, T]
    weights, before = start, -np.inf
    for _ in range(MAX_STEPS):
        joint = weights[:, None] * likely
        total = joint.sum(0)
        score = float(np.log(total).mean())
        weights = (joint / total).mean(1)
        if score - before < SMALLEST_GAIN:
            return weights, True
        before = score
    return weights, False


def mixture_errors(log_probs: Floats, weights: Floats) -> Floats:
    """Return the standard error of each weight, `[K]`, by the inverse of the observed information
    along the directions that keep the sum at one; 0 for a weight of zero."""
    likely = np.exp(log_probs - log_probs.max(0))
    alive = np.flatnonzero(weights > 1e-6)
    errors = np.zeros(len(weights))
    if len(alive) < 2:
        return errors
    scores = likely[alive] / (weights @ likely)  # [A, T], the derivatives of log p
    # An orthonormal basis of the directions whose sum is zero: [A, A - 1].
    basis = np.linalg.svd(np.ones((1, len(alive))))[2][1:].T
    information = basis.T @ (scores @ scores.T) @ basis
    variance = np.diag(basis @ np.linalg.pinv(information) @ basis.T)
    errors[alive] = np.sqrt(np.maximum(variance, 0.0))
    return errors


def mixture_score(log_probs: Floats, weights: Floats) -> float:
    """Return the log-likelihood of all tokens, in nats."""
    top = log_probs.max(0)
    return float((top + np.log(weights @ np.exp(log_probs - top))).sum())
