"""TIES: trim, elect signs, merge the values that agree.

Yadav et al. 2023, section 4 (algorithm 1), on task vectors w_k d_k:

1. trim: of each task vector only the largest `density` by magnitude are kept. The threshold is that
   of the whole task vector, all its matrices together, as in the paper; PEFT and mergekit trim each
   matrix by itself. A LoRA adapter's task vector are the matrices that it changes.
2. elect: at each place the sign of the sum of the kept values; a draw elects none, and gives 0.
3. disjoint mean: the mean of the kept values with the elected sign, times `lambda`.

The paper has no weights; here they scale the task vectors first, so they count in the election, and
a negative weight subtracts what an adapter learned. All weights 1 is the paper. The values kept are
a count rounded to the nearest (the authors' code keeps one more), and equal magnitudes are kept
together.

The result is dense and nowhere near a low rank; the adapter holds its best approximation of the
rank given, and the report says how much of its energy that is.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from adapters.weight_space.merge.inputs import Inputs
from adapters.weight_space.merge.method import Combine, Method, Parameter, Step, Values, number
from adapters.weight_space.merge.methods.deltas import Blocks, weighted
from adapters.weight_space.merge.methods.trimming import PASSES, thresholds, trim


def disjoint_mean(values: Iterable[Tensor], sign: Tensor) -> Tensor:
    """Return the mean of the values with the elected sign [...] of -1, 0 or 1; 0 without values."""
    total, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for value in values:
        agrees = (value * sign) > 0
        total += value.where(agrees, 0.0)
        count += agrees
    return total / count.clamp_(min=1)


def merged(inputs: Inputs, blocks: Blocks, values: Values, step: Step) -> Combine:
    """Apply TIES to the deltas in `blocks`."""
    scale = number(values, "lambda")
    limits = thresholds(inputs, blocks, number(values, "density"), step)

    def combine(module: str) -> Tensor:
        result = torch.empty(inputs.shape(module))
        for rows, deltas in blocks(module):
            kept = [trim(value, limits[k]) for k, value in deltas.items()]
            result[rows] = scale * disjoint_mean(kept, torch.stack(kept).sum(0).sign())
        return result

    return combine


def prepare(inputs: Inputs, values: Values, step: Step) -> Combine:
    return merged(inputs, weighted(inputs), values, step)


DENSITY = Parameter(
    "density", "share of each task vector to keep", 0.2, low=0, low_open=True, high=1
)
LAMBDA = Parameter("lambda", "scale of the merged task vector", 1.0)

METHOD = Method(
    name="ties",
    title="TIES",
    citation='Yadav et al. 2023, "TIES-Merging: Resolving Interference When Merging Models", '
    "arXiv:2306.01708",
    formula="lambda * mean of the kept w_k*d_k with the elected sign, at rank r",
    prepare=prepare,
    parameters=(DENSITY, LAMBDA),
    passes=PASSES,
)
