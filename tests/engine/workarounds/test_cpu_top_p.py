"""Top-p by a partial sort gives the tokens of vLLM's own sampler, and is still worth having."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from vllm.v1.sample.ops import topk_topp_sampler
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

from composer.tensors.filter_kernel import outside_nucleus
from composer.vllm.workarounds import cpu_top_p
from composer.vllm.workarounds.cpu_top_p import PartialSortSampler
from tests.engine.harness import of_v1

ROWS, VOCABULARY = 6, 5000


def inputs(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor([[0.1], [1.0], [2.0], [4.0], [8.0], [1.0]])
    logits = torch.randn(ROWS, VOCABULARY, generator=generator) * spread
    logits[5, 3:] = -math.inf  # a grammar, or min_p
    return logits


@of_v1
@pytest.mark.parametrize("k", [None, [1, 20, 2000, VOCABULARY, 20, VOCABULARY]])
@pytest.mark.parametrize("p", [None, [0.01, 0.5, 0.9, 0.95, 1.0, 0.9]])
@pytest.mark.parametrize("seed", range(5))
def test_the_sampler_is_that_of_vllm(
    k: list[int] | None, p: list[float] | None, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sorted_partly = []

    def watched(logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        sorted_partly.append(len(logits))
        return outside_nucleus(logits, shares)

    monkeypatch.setattr(cpu_top_p, "outside_nucleus", watched)
    tops = None if k is None else torch.tensor(k, dtype=torch.int32)
    shares = None if p is None else torch.tensor(p)
    answers = []
    for sampler in (TopKTopPSampler("processed_logits"), PartialSortSampler("processed_logits")):
        generators = {row: torch.Generator().manual_seed(row + seed) for row in range(ROWS)}
        answers.append(sampler.forward(inputs(seed), generators, tops, shares))
    (theirs, kept), (ours, ours_kept) = answers
    assert sorted_partly == ([] if p is None else [ROWS])
    assert torch.equal(ours, theirs)
    assert torch.equal(ours_kept == -math.inf, kept == -math.inf)


def test_vllm_still_sorts_every_row() -> None:
    """If it does not, delete the workaround."""
    assert "logits.sort(dim=-1" in inspect.getsource(topk_topp_sampler.apply_top_k_top_p_pytorch)
    assert "apply_top_k_top_p(logits, k, p)" in inspect.getsource(TopKTopPSampler.forward_cpu)
