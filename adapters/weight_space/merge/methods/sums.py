"""The weighted sum of the deltas: exact, or truncated to a smaller rank.

    d = sum_k w_k s_k B_k A_k = [w_1 s_1 B_1, w_2 s_2 B_2, ...] @ [A_1; A_2; ...]

The right-hand side is an adapter already, whose rank is the sum of the ranks: that is `sum`, called
"cat" in PEFT. `svd` truncates it to the given rank, which is the best approximation of that rank
(Eckart and Young 1936), computed from the factors without a dense delta. PEFT's "linear" sums A and
B separately, which adds cross terms B_1 A_2; no method here does that.
"""

from __future__ import annotations

from adapters.weight_space.factors import Factors
from adapters.weight_space.merge.inputs import Inputs, combination
from adapters.weight_space.merge.method import Combine, Method, RankRule, Step, Values


def prepare(inputs: Inputs, values: Values, step: Step) -> Combine:
    def combine(module: str) -> Factors:
        return combination(inputs, module, inputs.weights)

    return combine


_CITATION = (
    'Ilharco et al. 2022, "Editing Models with Task Arithmetic", arXiv:2212.04089, '
    "on the deltas of adapters"
)

SUM = Method(
    name="sum",
    title="Exact sum",
    citation=_CITATION,
    formula="sum_k w_k*d_k",
    prepare=prepare,
    rank=RankRule.NONE,
)

SVD = Method(
    name="svd",
    title="Sum at a smaller rank",
    citation=f"{_CITATION}; truncated as by Eckart and Young 1936",
    formula="best approximation of rank r of sum_k w_k*d_k",
    prepare=prepare,
)
