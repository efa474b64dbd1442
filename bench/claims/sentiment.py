"""DExperts with adapters steer what SmolLM2 says about films, by VADER."""

from __future__ import annotations

import math
from itertools import pairwise

from bench.claim import Result
from bench.measure import show, table
from bench.reproduce.real.dexperts import (
    EXPERTS,
    FILTERS,
    formula_at,
    sample,
    slope,
    standard_error,
)
from bench.reproduce.real.judges import vader
from bench.reproduce.real.model import RealModel
from bench.reproduce.seeds import mean
from experts import ADAPTERS

ALPHAS = (-2.0, -1.0, 0.0, 1.0, 2.0)
MOST_AT_ZERO = 0.25


def measure() -> Result:
    """Return the mean of VADER's compound score at alpha 2.

    The claim also needs it to be at most `MOST_AT_ZERO` at alpha 0, and to rise from each alpha to
    the next, up to the standard error of the difference.
    """
    model = RealModel({name: ADAPTERS[name] for name in EXPERTS})
    means, errors = {}, {}
    for alpha in ALPHAS:
        by_seed = sample(model, formula_at(alpha), FILTERS)
        scores = [score for texts in by_seed for score in vader(texts)]
        means[alpha], errors[alpha] = mean(scores), standard_error(scores)
    show(f"{len(scores)} texts each, base + alpha*({EXPERTS[0]} - {EXPERTS[1]}):")
    rows = [(f"{alpha:g}", f"{means[alpha]:.3f} ±{errors[alpha]:.3f}") for alpha in ALPHAS]
    show(table(("alpha", "VADER, mean ± standard error"), rows))
    show(f"Slope {slope(means):.3f} per unit of alpha.")
    rises = all(
        means[b] - means[a] >= -math.hypot(errors[a], errors[b]) for a, b in pairwise(ALPHAS)
    )
    return Result(means[2.0], holds=slope(means) > 0 and rises and means[0.0] <= MOST_AT_ZERO)
