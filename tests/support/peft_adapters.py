"""Adapters of any kind, made and saved by PEFT on the zoo's base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

BASE = Path(__file__).resolve().parents[2] / "zoo" / "models" / "base"
IDS = torch.tensor([[1, 17, 400, 5, 23, 23, 900, 64, 311, 7]])


def base_model(folder: Path = BASE) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(input_ids=IDS).logits[0]
    return result


def under_peft(folder: Path) -> Tensor:
    """The logits of the adapter in `folder`, as PEFT loads it."""
    return logits(PeftModel.from_pretrained(base_model(), str(folder)).eval())


def train(
    config: PeftConfig, folder: Path, *, step: float = 0.05, initial: Path | None = None
) -> Tensor:
    """Move every trainable number at random, and save; return the logits of the trained model.

    initial: where to save the untrained adapter, as PEFT's documentation says.
    """
    torch.manual_seed(3)
    model: Any = get_peft_model(base_model(), config).eval()
    if initial is not None:
        init, config.init_lora_weights = config.init_lora_weights, True
        model.save_pretrained(initial)
        config.init_lora_weights = init
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += step * torch.randn_like(parameter) * (1 + parameter.abs().mean())
    model.save_pretrained(folder)
    return logits(model)
