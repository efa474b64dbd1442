"""A switch between adapters computes what PEFT's own methods compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from composer.reference.peft_adapters import AdaptedModel

IDS = torch.tensor([list(range(40, 60))])
NAMES = ("chat", "polite")


def load(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


@torch.inference_mode()
def test_it_is_what_peft_switches(zoo_base: Path, zoo_adapters: dict[str, Path]) -> None:
    expected: dict[str | None, torch.Tensor] = {None: load(zoo_base)(IDS).logits}
    for name in NAMES:
        alone = PeftModel.from_pretrained(load(zoo_base), str(zoo_adapters[name]))
        expected[name] = alone.eval()(IDS).logits
    model = AdaptedModel(load(zoo_base), {name: zoo_adapters[name] for name in NAMES})
    for switched in (None, "chat", "polite", None, "polite", "chat", "chat", None):
        logits = model.using(switched)(IDS).logits
        torch.testing.assert_close(logits, expected[switched], rtol=0, atol=0)
    with pytest.raises(KeyError, match="rude"):
        model.using("rude")
    assert not torch.equal(expected["chat"], expected["polite"])


@torch.inference_mode()
def test_a_model_without_adapters(zoo_base: Path) -> None:
    logits = AdaptedModel(load(zoo_base), {}).using(None)(IDS).logits
    torch.testing.assert_close(logits, load(zoo_base)(IDS).logits, rtol=0, atol=0)
