"""A merged adapter in the real base model: PEFT computes what merged weights compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.adapters.weight_space.merge.samples import best, dense, run

TOKENS = torch.arange(3, 43).reshape(2, 20)


def load(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


@torch.inference_mode()
def logits(model: Any) -> Tensor:
    found: Tensor = model(TOKENS).logits
    return found


@pytest.mark.parametrize("rank", [None, 24])
def test_logits_are_those_of_merged_weights(
    tmp_path: Path, zoo_base: Path, zoo_adapters: dict[str, Path], rank: int | None
) -> None:
    folders, weights = [zoo_adapters["polite"], zoo_adapters["arithmetic"]], (0.8, -0.5)
    method, rest = ("sum", {}) if rank is None else ("svd", {"rank": rank})
    run(tmp_path / "m", method, folders, weights, **rest)

    model = load(zoo_base)
    untouched = logits(model)
    deltas = [dense(folder) for folder in folders]
    for module in deltas[0]:
        delta = weights[0] * deltas[0][module] + weights[1] * deltas[1][module]
        model.get_submodule(module).weight.data += best(delta, rank or 32).float()
    expected = logits(model)

    found = logits(PeftModel.from_pretrained(load(zoo_base), str(tmp_path / "m")))
    assert float((expected - untouched).abs().max()) > 1
    assert float((found - expected).abs().max()) < 1e-4
