"""DARE: drop most of each delta at random, and rescale what is left.

Yu et al. 2023, section 3.2: each value of each delta is set to 0 with probability p (`drop`) and
otherwise divided by 1 - p, which preserves its expectation. Then `dare_linear` adds the sparse
deltas with their weights, and `dare_ties` passes them to TIES, where the default density of 1 trims
nothing, as in PEFT and mergekit.

The draws depend on `seed`, the index of the adapter among those of nonzero weight, the name of the
module and the first row of the block. The specification determines all of these, so a merge can be
reproduced with the same version of torch. Another order of adapters draws other values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from adapters.weight_space.merge.inputs import Inputs
from adapters.weight_space.merge.method import Combine, Method, Parameter, Step, Values, number
from adapters.weight_space.merge.methods.deltas import Blocks, weighted
from adapters.weight_space.merge.methods.ties import DENSITY, LAMBDA, merged
from adapters.weight_space.merge.methods.trimming import PASSES


def dropped(blocks: Blocks, drop: float, seed: int) -> Blocks:
    """Return the blocks with a share `drop` of values set to 0, the others divided by 1 - drop."""

    def sparse(module: str) -> Iterator[tuple[slice, dict[int, Tensor]]]:
        for rows, values in blocks(module):
            kept = {}
            for k, value in values.items():
                draws = torch.rand(value.shape, generator=_generator(seed, k, module, rows.start))
                kept[k] = value.where(draws >= drop, 0.0) / (1 - drop)
            yield rows, kept

    return sparse


def _generator(seed: int, index: int, module: str, row: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{index}/{row}/{module}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def _blocks(inputs: Inputs, values: Values) -> Blocks:
    return dropped(weighted(inputs), number(values, "drop"), int(number(values, "seed")))


def prepare_linear(inputs: Inputs, values: Values, step: Step) -> Combine:
    blocks = _blocks(inputs, values)

    def combine(module: str) -> Tensor:
        result = torch.zeros(inputs.shape(module))
        for rows, deltas in blocks(module):
            for delta in deltas.values():
                result[rows] += delta
        return result

    return combine


def prepare_ties(inputs: Inputs, values: Values, step: Step) -> Combine:
    return merged(inputs, _blocks(inputs, values), values, step)


_CITATION = (
    'Yu et al. 2023, "Language Models are Super Mario: Absorbing Abilities from Homologous Models '
    'as a Free Lunch", arXiv:2311.03099'
)
_DROP = Parameter("drop", "the probability that a value is dropped", 0.5, 0, 1, high_open=True)
_SEED = Parameter("seed", "seed of the draws", 0, 0, 2**63 - 1, whole=True)

LINEAR = Method(
    name="dare_linear",
    title="DARE",
    citation=_CITATION,
    formula="sum_k w_k*m_k*d_k/(1-p), m_k drawn 0 with probability p, at rank r",
    prepare=prepare_linear,
    parameters=(_DROP, _SEED),
)

TIES = Method(
    name="dare_ties",
    title="DARE and TIES",
    citation=_CITATION,
    formula="ties of m_k*d_k/(1-p), m_k drawn 0 with probability p, at rank r",
    prepare=prepare_ties,
    parameters=(_DROP, _SEED, replace(DENSITY, default=1.0), LAMBDA),
    passes=PASSES,
)
