"""Newton's method for the weights of a sum, with few passes over the examples.

The log-likelihood of a composition, `S(w) = sum_t log_softmax(sum_k w_k l_kt)[y_t]`, is that of a
log-linear model: concave in the weights, with one maximum. A pass over the examples computes `S`,
its gradient and its Hessian for several weights at once, because the logits `l` of the members do
not depend on them; so a pass tries several lengths of a step, and the best one has what the next
step needs. The point from which the step leads is among them: logits of two passes differ by the
models' rounding, and only points of the same pass are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LENGTHS = (1.0, 2.0, 4.0, 0.5, 0.2, 0.05)
"""Multiples of a Newton step that a pass tries. Far from the maximum a step is too short, where the
models leave nothing to chance, or too long."""

SHRINK = 0.02
"""Factor on all lengths of the next pass, if none was better."""

SMALLEST_GAIN = 1e-6
"""Expected gain per token, in nats, below which the search ends."""

HIDDEN_GAIN = 0.02
"""Expected gain over all tokens, in nats, that rounding in the models may hide: it ends a search in
which no step was better. The maximum is then at most a fifth of a standard error away."""

UNCLEAR = 0.5
"""Standard error of a weight from which the examples are said not to determine it."""


@dataclass(frozen=True, slots=True)
class Point:
    """What a pass says of some values of the free names: `score` in nats over all tokens."""

    theta: Floats  # [P]
    score: float
    gradient: Floats  # [P]
    hessian: Floats  # [P, P]


@dataclass(slots=True)
class Newton:
    """One search: evaluate `proposed`, call `learn`, until `done`.

    A ridge pulls towards the start, `-ridge/2 |theta - start|^2` nats per token, so that values
    that the examples do not determine stay near it.
    """

    start: Floats  # [P]
    lower: Floats  # [P]
    upper: Floats  # [P]
    tokens: int
    ridge: float = 1e-4
    best: Point | None = None
    passes: int = 0
    converged: bool = False
    done: bool = False
    _scale: float = 1.0
    proposed: list[Floats] = field(init=False)
    """Values of the free names to evaluate in the next pass."""

    def __post_init__(self) -> None:
        self.proposed = [np.clip(self.start, self.lower, self.upper)]

    def learn(self, points: Sequence[Point]) -> None:
        """Take the results of a pass, one for each of `proposed`."""
        self.passes += 1
        likeliest = max(points, key=self._objective)
        if self.best is None or not np.array_equal(likeliest.theta, self.best.theta):
            self._scale, hidden = 1.0, 0.0
        else:
            self._scale, hidden = self._scale * SHRINK, HIDDEN_GAIN
        self.best = likeliest
        here = self.best.theta
        step, slope = self._step(self.best)
        moves = [
            np.clip(here + self._scale * length * step, self.lower, self.upper)
            for length in LENGTHS
        ]
        stuck = max(float(np.abs(move - here).max(initial=0.0)) for move in moves) < 1e-9
        self.converged = stuck or float(slope @ step) / 2 < max(hidden, SMALLEST_GAIN * self.tokens)
        self.done = self.converged or self._scale < 1e-6
        self.proposed = list({tuple(move): move for move in (here, *moves)}.values())

    def standard_errors(self) -> Floats:
        """Return the standard error of each value, `[P]`, by the inverse of the Hessian; infinite
        where the examples say nothing, 0 for a value that is held by a bound."""
        assert self.best is not None
        free = self._free(self.best)
        errors = np.zeros(len(self.start))
        information = -self.best.hessian[np.ix_(free, free)]
        values, vectors = np.linalg.eigh(information)
        known = values > 1e-9 * max(values.max(initial=0.0), 1e-300)
        variance = (vectors[:, known] ** 2 / values[known]).sum(1)
        variance[(np.abs(vectors[:, ~known]) > 1e-6).any(1)] = np.inf
        errors[free] = np.sqrt(variance)
        return errors

    def _objective(self, point: Point) -> float:
        moved = point.theta - self.start
        return point.score - self.ridge * self.tokens / 2 * float(moved @ moved)

    def _free(self, point: Point) -> npt.NDArray[np.int64]:
        """Return the values that may move: not those that the gradient presses against a bound."""
        held = (point.theta <= self.lower) & (point.gradient < 0)
        held |= (point.theta >= self.upper) & (point.gradient > 0)
        return np.flatnonzero(~held)

    def _step(self, point: Point) -> tuple[Floats, Floats]:
        """Return the Newton step and the gradient, both `[P]`, 0 for values that are held."""
        free, ridge = self._free(point), self.ridge * self.tokens
        slope, step = np.zeros(len(self.start)), np.zeros(len(self.start))
        slope[free] = (point.gradient - ridge * (point.theta - self.start))[free]
        curvature = -point.hessian[np.ix_(free, free)] + ridge * np.eye(len(free))
        # The shortest solution: without a ridge, what the examples do not determine stays.
        step[free] = np.linalg.lstsq(curvature, slope[free])[0]
        return step, slope
