"""Last hidden states of a model with adapters, by transformers and PEFT."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from composer.training.examples import Example

BATCH_TOKENS = 2048


class HiddenStates:
    """A base model with adapters in memory; `hidden_size` is H."""

    def __init__(self, base: Path, adapters: Mapping[str, Path]) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        # A CPU computes bfloat16 slowly, and float32 as well as the engine does.
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = model.to(device) if device == "cuda" else model.float()
        for name, path in adapters.items():
            if isinstance(model, PeftModel):
                model.load_adapter(str(path), adapter_name=name)
            else:
                model = PeftModel.from_pretrained(model, str(path), adapter_name=name)
        self._model = model.eval()
        self.hidden_size = int(model.config.get_text_config().hidden_size)

    @torch.inference_mode()
    def under(
        self, adapter: str | None, examples: Sequence[Example], done: Callable[[int], None]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """For each example its index and `[positions, H]` float32 on the CPU: the states that
        choose adapters, as `adapter` (None: the base alone) computes them.

        `done` is told after each batch how many examples were in it.
        """
        alone = nullcontext()
        if isinstance(self._model, PeftModel):
            if adapter is None:
                alone = self._model.disable_adapter()
            else:
                self._model.set_adapter(adapter)
        with alone:
            for indices in _batches(examples):
                states = self._forward([examples[i].tokens for i in indices])
                for row, i in enumerate(indices):
                    at = examples[i].positions()
                    yield i, states[row, at.start : at.stop].float().cpu()
                done(len(indices))

    def _forward(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """`[B, T]` token ids -> `[B, T, H]`, after the final norm. Rows are filled on the right,
        which causal attention does not see from the left."""
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        found = self._model(
            input_ids=ids.to(self._model.device),
            use_cache=False,
            output_hidden_states=True,
            logits_to_keep=1,
        )
        states: torch.Tensor = found.hidden_states[-1]
        return states


def _batches(examples: Sequence[Example]) -> Iterator[list[int]]:
    """Indices of examples of similar length, about `BATCH_TOKENS` tokens in each."""
    batch: list[int] = []
    for i in sorted(range(len(examples)), key=lambda i: len(examples[i].tokens)):
        if batch and len(examples[i].tokens) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    yield batch
