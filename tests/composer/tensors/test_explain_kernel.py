"""The most likely tokens of an explanation, against `Tensor.topk`."""

from __future__ import annotations

import math

import pytest
import torch

from composer.tensors.explain_kernel import BEST, top


@pytest.mark.parametrize("vocabulary", [BEST, 127, 128, 129, 640, 641, 49_152, 151_936])
@pytest.mark.parametrize("possible", [1.0, 0.5, 0.01, 0.0])
def test_the_highest_are_those_of_topk(vocabulary: int, possible: float) -> None:
    random = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(3, vocabulary, generator=random)
    logits[torch.rand(3, vocabulary, generator=random) >= possible] = -math.inf
    values, ids = top(logits, BEST)
    wanted, wanted_ids = logits.topk(BEST, 1)
    assert torch.equal(values, wanted)
    finite = wanted > -math.inf
    assert torch.equal(ids[finite], wanted_ids[finite])


def test_of_equals_each_is_named_once() -> None:
    logits = torch.zeros(2, 1000)
    logits[1, [3, 500, 501, 502, 503, 900, 999]] = 1.0
    values, ids = top(logits, BEST)
    assert torch.equal(values, torch.tensor([[0.0] * BEST, [1.0] * BEST]))
    assert all(len(set(row)) == BEST for row in ids.tolist())
    assert torch.equal(logits.gather(1, ids), values)
