"""Last hidden states of a model with adapters, by transformers and PEFT."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from composer.reference.masking import lora_at
from composer.reference.peft_adapters import AdaptedModel

BATCH_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Reading:
    """A text to compute: the base model computes tokens before position `since`, the adapter those
    from there on. `positions` are those whose states to return."""

    tokens: tuple[int, ...]
    since: int
    positions: range


class HiddenStates:
    """A base model with adapters, in memory; `hidden_size` is H."""

    def __init__(self, base: Path, adapters: Mapping[str, Path]) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        # On a CPU bfloat16 is slow, and float32 is as close to the engine.
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = model.to(device) if device == "cuda" else model.float()
        self._model = AdaptedModel(model, adapters)
        self.hidden_size = int(model.config.get_text_config().hidden_size)

    @torch.inference_mode()
    def under(
        self, adapter: str | None, readings: Sequence[Reading], done: Callable[[int], None]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the index of each reading with its states, `[positions, H]` float32 on the CPU.

        `adapter` None is the base alone. Call `done` after each batch with its size.
        """
        for indices in _batches(readings):
            states = _states(self._model.using(adapter), [readings[i] for i in indices])
            for row, i in enumerate(indices):
                at = readings[i].positions
                yield i, states[row, at.start : at.stop].float().cpu()
            done(len(indices))


def _states(model: Any, readings: Sequence[Reading]) -> torch.Tensor:
    """Return states `[B, T, H]` after the final norm.

    Rows are padded on the right, which causal attention ignores.
    """
    width = max(len(reading.tokens) for reading in readings)
    ids = torch.tensor([[*r.tokens, *[0] * (width - len(r.tokens))] for r in readings])
    since = torch.tensor([[reading.since] for reading in readings])
    on = (torch.arange(width) >= since).to(model.device)  # [B, T] bool
    with lora_at(model, on):
        out = model(
            input_ids=ids.to(model.device),
            use_cache=False,
            output_hidden_states=True,
            logits_to_keep=1,
        )
    states: torch.Tensor = out.hidden_states[-1]
    return states


def _batches(readings: Sequence[Reading]) -> Iterator[list[int]]:
    """Yield batches of indices: readings of similar length, at most about `BATCH_TOKENS` tokens."""
    batch: list[int] = []
    for i in sorted(range(len(readings)), key=lambda i: len(readings[i].tokens)):
        if batch and len(readings[i].tokens) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
