"""What one scheduling step may still give away, while vLLM's loop runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from composer.vllm.rows import RowGroup


@dataclass(slots=True)
class Step:
    """The books of one step that involves groups."""

    budget: int
    """Tokens left of `max_num_scheduled_tokens`."""
    slots: int
    """Requests that may run at once."""
    throttled: bool = False
    """vLLM defers prefills in this step: no group may start or be released."""
    reserved: int = 0
    """Tokens of the budget kept for rows that decode and have not had their turn."""
    absent: int = 0
    """Rows of admitted groups that hold a slot but do not join in this step."""
    adapters: set[int] = field(default_factory=set)
    """lora_int_ids of everything that runs or was admitted."""
    wanted_adapters: frozenset[int] | None = None
    """The adapters of the first group that waits for adapter slots."""
    released: list[RowGroup] = field(default_factory=list)
    """Groups whose rows all run for the first time in this step."""

    @property
    def unreserved(self) -> int:
        """Tokens that a prefill may take."""
        return max(self.budget - max(self.reserved, 0), 0)
