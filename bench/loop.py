"""Decoding without a server: a loop over models with KV caches, one request at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


class Loop:
    """Greedy decoding of `sum_k w_k l_k` over separate models, so that no adapter is switched.

    With `merged`, the adapters are merged into their models: this saves the arithmetic of LoRA and
    costs a whole model per adapter.
    """

    def __init__(
        self, base: Path, members: Sequence[tuple[float, Path | None]], *, merged: bool = False
    ) -> None:
        self._weights = [weight for weight, _ in members]
        self._models = [_load(base, adapter, merged) for _, adapter in members]

    @torch.inference_mode()
    def greedy(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """Return the answer, with one forward pass per model and token."""
        caches: list[Any] = [None] * len(self._models)
        ids = torch.tensor([list(prompt)])  # [1, T]
        answer: list[int] = []
        while len(answer) < max_tokens:
            composed = torch.zeros(())
            for k, model in enumerate(self._models):
                out = model(ids, past_key_values=caches[k], use_cache=True, logits_to_keep=1)
                caches[k] = out.past_key_values
                composed = composed + self._weights[k] * out.logits[0, -1]  # [V]
            answer.append(int(composed.argmax()))
            ids = torch.tensor([answer[-1:]])
        return answer


def _load(base: Path, adapter: Path | None, merged: bool) -> Any:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
        model = model.merge_and_unload() if merged else model
    return model.eval()
