"""Composing without a server: a loop with transformers, one request at a time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench.gpu.budget import Budget
from bench.gpu.speed.cells import Cell, Run
from bench.workload import prompts

WEIGHTS = (1.0, 0.8, -0.8)
WARM_UP_TOKENS = 4


class TransformersLoop:
    """Three rows, each with a KV cache of its own, on one model of random weights.

    Three models with merged adapters would take as long, and three times the memory.
    """

    def __init__(self, base: Path, device: torch.device) -> None:
        with device:
            model: Any = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(base), dtype=torch.bfloat16
            )
        self._model = model.eval()
        self._device = device

    rows = len(WEIGHTS)

    def run(self, cell: Cell, vocabulary: int, budget: Budget) -> Run:
        """Answer one request of a cell after a short one, in fewer tokens if time is spent."""
        [text] = prompts(1, cell.prompt, vocabulary, seed=1)
        self._tokens(text, WARM_UP_TOKENS, budget)
        first, *gaps = self._tokens(text, cell.answer, budget)
        mean = (first + sum(gaps)) / (1 + len(gaps))
        return Run(mean * cell.answer, first, gaps)

    @torch.inference_mode()
    def _tokens(self, prompt: tuple[int, ...], answer: int, budget: Budget) -> list[float]:
        """Return the seconds of every token, at least two."""
        caches: list[Any] = [None] * self.rows
        ids = torch.tensor([list(prompt)], device=self._device)  # [1, T]
        seconds: list[float] = []
        while len(seconds) < 2 or (len(seconds) < answer and budget.left_s > 0):
            start = time.perf_counter()
            composed = torch.zeros((), device=self._device)
            for k, weight in enumerate(WEIGHTS):
                out = self._model(ids, past_key_values=caches[k], use_cache=True, logits_to_keep=1)
                caches[k] = out.past_key_values
                composed = composed + weight * out.logits[0, -1].float()  # [V]
            ids = composed.argmax().view(1, 1)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            seconds.append(time.perf_counter() - start)
        return seconds
