"""TIES with slack: keep important parameters that TIES would discard.

The source is Tao et al. 2024, "Unlocking the Potential of Model Merging for Low-Resource
Languages". Its abstract says that merging stops getting better while one of the models trains on,
and that "a slack variable" is there "to mitigate the loss of important parameters". The formula was
not available to us, so this is our own reading, not a reproduction. TIES discards in two places,
and the slack s relaxes each; s = 0 is TIES.

1. Trimming. Let T_k be TIES's threshold of adapter k. Where no adapter has a value of at least T_k,
   TIES leaves the base as it is. There, values of at least (1 - s) T_k take part instead. They were
   near the cut, and at such places no kept value exists that they could dilute or contradict.
2. Election. TIES keeps the same share of every task vector, so trimming cannot explain a loss that
   grows while one model trains on; the election can. Its numbers grow, and it outvotes the other
   where that one's parameter matters most. So the votes are divided by g_k^s, g_k the root mean
   square of task vector k: with s = 1 every adapter votes in units of its own typical change.

What is merged are the values themselves, not the votes: the mean of those with the elected sign,
times `lambda`. Weights scale the task vectors as in TIES, but g_k is taken before: a weight counts
in full in the election.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from adapters.weight_space.merge.inputs import Inputs, inner
from adapters.weight_space.merge.method import Combine, Method, Parameter, Step, Values, number
from adapters.weight_space.merge.methods.deltas import weighted
from adapters.weight_space.merge.methods.ties import DENSITY, LAMBDA, disjoint_mean
from adapters.weight_space.merge.methods.trimming import PASSES, thresholds, trim


def typical_sizes(inputs: Inputs) -> list[float]:
    """Return the root mean square of each input's unweighted deltas; 1 if all are zero."""
    energies = [0.0] * len(inputs)
    for module in inputs.modules:
        for k, factors in inputs.factors(module).items():
            energies[k] += inner(factors, factors)
    return [math.sqrt(e / inputs.size(k)) if e > 0 else 1.0 for k, e in enumerate(energies)]


def prepare(inputs: Inputs, values: Values, step: Step) -> Combine:
    scale, slack = number(values, "lambda"), number(values, "slack")
    blocks = weighted(inputs)
    limits = thresholds(inputs, blocks, number(values, "density"), step)
    units = [size**slack for size in typical_sizes(inputs)]

    def combine(module: str) -> Tensor:
        result = torch.empty(inputs.shape(module))
        for rows, deltas in blocks(module):
            kept = _with_slack(deltas, limits, slack)
            votes = torch.stack([value / units[k] for k, value in kept.items()]).sum(0)
            result[rows] = scale * disjoint_mean(kept.values(), votes.sign())
        return result

    return combine


def _with_slack(deltas: dict[int, Tensor], limits: list[float], slack: float) -> dict[int, Tensor]:
    """Return index -> values [rows, in] that take part, with 0 for the others."""
    kept = {k: trim(value, limits[k]) for k, value in deltas.items()}
    empty = torch.stack([value == 0 for value in kept.values()]).all(0)
    return {
        k: trim(value, (1 - slack) * limits[k]).where(empty, kept[k]) for k, value in deltas.items()
    }


METHOD = Method(
    name="slack",
    title="TIES with slack",
    citation='after Tao et al. 2024, "Unlocking the Potential of Model Merging for Low-Resource '
    'Languages", arXiv:2407.03994 (our reading of its abstract)',
    formula="ties, but (1-s)*threshold where nothing is kept, and votes in units of size_k^s",
    prepare=prepare,
    parameters=(
        DENSITY,
        LAMBDA,
        Parameter("slack", "s: 0 is TIES, 1 discards least", 0.2, low=0, high=1),
    ),
    passes=PASSES,
)
