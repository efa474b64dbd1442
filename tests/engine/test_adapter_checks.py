"""What is checked in an adapter between the file and the slots of the engine."""

from __future__ import annotations

import math

import pytest
import torch
from vllm.lora.lora_model import LoRAModel
from vllm.lora.lora_weights import LoRALayerWeights

from composer.vllm.adapter_checks import check_values


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1e38])
@pytest.mark.parametrize("expert", [0, 1])
def test_every_expert_of_a_factor_is_checked(bad: float, expert: int) -> None:
    """Python's `max` forgets a NaN behind another number."""
    factors = [torch.ones(2, 4), torch.ones(2, 4)]
    good = LoRALayerWeights("experts", 2, 2, factors, torch.ones(4, 2))
    check_values(LoRAModel(1, 2, {"experts": good}))
    factors[expert] = factors[expert].clone()
    factors[expert][1, 3] = bad
    wrong = LoRALayerWeights("experts", 2, 2, factors, torch.ones(4, 2))
    with pytest.raises(ValueError, match="A of experts reaches"):
        check_values(LoRAModel(1, 2, {"experts": wrong}))
