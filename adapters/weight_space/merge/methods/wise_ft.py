"""WiSE-FT: interpolate between a fine-tune and its base model.

Wortsman et al. 2021, section 3: the weights (1 - a) W_0 + a W_ft are, for an adapter with
W_ft = W_0 + d, the adapter a*d. The paper's a lies between 0 (the base) and 1 (the fine-tune).
"""

from __future__ import annotations

from adapters.weight_space.factors import Factors
from adapters.weight_space.merge.inputs import Inputs, combination
from adapters.weight_space.merge.method import (
    Combine,
    Method,
    Parameter,
    RankRule,
    Step,
    Values,
    number,
)


def prepare(inputs: Inputs, values: Values, step: Step) -> Combine:
    scale = number(values, "a")

    def combine(module: str) -> Factors:
        return combination(inputs, module, [scale * weight for weight in inputs.weights])

    return combine


METHOD = Method(
    name="wise_ft",
    title="WiSE-FT",
    citation='Wortsman et al. 2021, "Robust Fine-Tuning of Zero-Shot Models", arXiv:2109.01903',
    formula="a*w*d",
    prepare=prepare,
    parameters=(
        Parameter("a", "share of the fine-tune", low=0, low_open=True, high=1, required=True),
    ),
    rank=RankRule.OPTIONAL,
    most=1,
)
