"""Seeded sampling on CPU when vLLM discards a sampled token.

vLLM samples for every row of the batch, including rows that are still prefilling, discards the
tokens of those and rewinds their random generators with `set_offset`. CPU generators have no offset
(torch: "CPU Generator does not use offset"), so a seeded request whose prompt takes two steps would
end the engine. `RewindableGenerator` restores a remembered state instead.
"""

from __future__ import annotations

import torch


class RewindableGenerator(torch.Generator):
    """A CPU generator that can undo what was drawn since the last `mark`."""

    _marked: torch.Tensor | None = None

    @classmethod
    def like(cls, generator: torch.Generator) -> RewindableGenerator:
        """Return a generator in the state of `generator`."""
        copy = cls(device="cpu")
        copy.set_state(generator.get_state())
        return copy

    def mark(self) -> None:
        """Remember the present state."""
        self._marked = self.get_state()

    def get_offset(self) -> int:
        return 0

    def set_offset(self, offset: int) -> torch.Generator:
        """Return to the mark. vLLM passes a negative difference, to undo one draw."""
        return self if self._marked is None else self.set_state(self._marked)
