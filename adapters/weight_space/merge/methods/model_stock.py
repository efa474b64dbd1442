"""Model Stock: average several fine-tunes and shrink the average where they disagree.

Jang et al. 2024, section 4.2: with N fine-tunes of one base, per layer,

    t = N cos / (1 + (N - 1) cos),      d = t * (1/N) * sum_k d_k

cos is the cosine between deltas, averaged over all pairs. As in the paper, "layer" means weight
matrix. The inner products come from the factors, without dense deltas. A pair in which one delta is
zero has cosine 0. The derivation assumes an angle below 90 degrees; a negative mean cosine would
reverse the fine-tunes (and divide by zero at -1/(N-1)), so t is 0 there and the base's weights
remain. t is at most 1. The paper has no weights, so this method has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from adapters.weight_space.factors import Factors
from adapters.weight_space.merge.inputs import Inputs, combination, inner
from adapters.weight_space.merge.method import Combine, Method, RankRule, Step, Values


def ratio(factors: Mapping[int, Factors], count: int) -> float:
    """Return t of one weight matrix; `factors` holds those of the `count` inputs that change it."""
    norms = {index: inner(delta, delta) ** 0.5 for index, delta in factors.items()}
    total = 0.0
    for (i, first), (j, second) in combinations(sorted(factors.items()), 2):
        if norms[i] and norms[j]:
            total += inner(first, second) / (norms[i] * norms[j])
    cosine = max(total / (count * (count - 1) / 2), 0.0)
    return min(count * cosine / (1 + (count - 1) * cosine), 1.0)


def prepare(inputs: Inputs, values: Values, step: Step) -> Combine:
    count = len(inputs)

    def combine(module: str) -> Factors:
        t = ratio(inputs.factors(module), count)
        return combination(inputs, module, [t / count] * count)

    return combine


METHOD = Method(
    name="model_stock",
    title="Model Stock",
    citation='Jang et al. 2024, "Model Stock: All We Need Is Just a Few Fine-Tuned Models", '
    "arXiv:2403.19522",
    formula="t * mean_k d_k, t = N*cos/(1 + (N-1)*cos) per matrix",
    prepare=prepare,
    rank=RankRule.OPTIONAL,
    least=2,
    weighted=False,
)
