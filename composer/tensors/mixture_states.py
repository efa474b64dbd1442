"""What the posterior rule remembers of each gang, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import pad

from composer.tensors.mixture_rules import IMPOSSIBLE

DEPTH = 4
"""States kept per gang: the latest and those before it. Under async scheduling vLLM may discard the
newest token and compute its step again."""


@dataclass(frozen=True, slots=True)
class PromptPart:
    """The next tokens of the prompt that one row of a gang reads."""

    slot: int
    """Slot of the gang's states."""

    k: int
    """Index of the row in its gang."""

    tokens: int
    """Number of tokens."""

    forgetting: float


class MixtureStates:
    """The posterior's `s` of each gang, and the sum of its weights `pi` for reports.

    State `position % DEPTH` of a gang is the one before token `position` of its answer. Slot 0
    receives what need not be kept.

    `values` is `[slots * DEPTH, 2, K]` float64: `s` and the sum of `pi`, by slot and state.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: list[int] = []
        # float64, because differences between sums over thousands of tokens count.
        self.values = torch.zeros(DEPTH, 2, 1, dtype=torch.float64, device=device)

    def take(self, size: int) -> int:
        """Return a slot of zeros for a gang of `size` rows."""
        states, _, width = self.values.shape
        if size > width:
            self.values = pad(self.values, (0, size - width))
        if not self._free:
            self.values = pad(self.values, (0, 0, 0, 0, 0, states))
            self._free = list(range(2 * states // DEPTH - 1, states // DEPTH - 1, -1))
        slot = self._free.pop()
        self.values[slot * DEPTH : (slot + 1) * DEPTH] = 0
        return slot

    def give_back(self, slot: int) -> None:
        self._free.append(slot)

    def first(self, slot: int) -> torch.Tensor:
        """Return the state before the first token, `[2, K]` float64, a view."""
        return self.values[slot * DEPTH]

    def read_prompts(self, parts: Sequence[PromptPart], log_probs: torch.Tensor) -> None:
        """Add prompt tokens to `s`.

        Args:
            parts: no row occurs in two of them.
            log_probs: `[sum of tokens]` float32, `log p_k` of each token, part after part.
        """

        def on_device(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).to(self._device, non_blocking=True)

        decay = [part.forgetting ** np.arange(part.tokens - 1, -1, -1.0) for part in parts]
        part_of = np.repeat(np.arange(len(parts)), [part.tokens for part in parts])
        scores = on_device(np.concatenate(decay)) * log_probs.clamp(min=IMPOSSIBLE)
        sums = torch.zeros(len(parts), dtype=torch.float64, device=self._device)
        sums.index_add_(0, on_device(part_of), scores)
        kept = on_device(np.array([part.forgetting**part.tokens for part in parts]))
        first, rows = on_device(np.array([[part.slot * DEPTH, part.k] for part in parts])).T
        s = self.values[:, 0]  # [slots * DEPTH, K], a view
        s[first, rows] = kept * s[first, rows] + sums

    def totals(self, slot: int, size: int) -> torch.Tensor:
        """Return a copy of the last sums of `pi` over an answer: `[DEPTH, K]` float64."""
        return self.values[slot * DEPTH : (slot + 1) * DEPTH, 1, :size].clone()
