"""Seeded sampling on CPU when a sampled token is discarded.

vLLM samples for every row of the batch, also for those that are still prefilling, discards their
tokens, and winds their random generators back with `set_offset`. CPU generators have no offset
(vLLM 0.32: "CPU Generator does not use offset"), so a seeded request whose prompt takes two steps
would end the engine. This generator remembers its state instead.
"""

from __future__ import annotations

import torch


class RewindableGenerator(torch.Generator):
    """A CPU generator that can undo what was drawn since the last `mark`."""

    _marked: torch.Tensor | None = None

    def mark(self) -> None:
        """Remember the present state."""
        self._marked = self.get_state()

    def get_offset(self) -> int:
        return 0

    def set_offset(self, offset: int) -> torch.Generator:
        """Return to the mark. vLLM calls it with a negative difference, to undo one draw."""
        return self if self._marked is None else self.set_state(self._marked)
