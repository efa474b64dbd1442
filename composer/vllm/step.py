"""What one scheduling step may still give away, while vLLM's loop runs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from composer.vllm.rows import RowGroup


@dataclass(slots=True)
class Step:
    """The books of one step that involves groups."""

    budget: int
    """Tokens left of `max_num_scheduled_tokens`."""
    slots: int
    """Requests that may run at once."""
    adapter_slots: int
    """Different adapters that may run at once."""
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

    def take_adapters(self, needed: Collection[int]) -> bool:
        """Take adapter slots, if there are enough for these beside those in use.

        Once a group waits for slots, nobody behind it may take or keep one that it does not need:
        requests without an adapter pass, the slots drain, and the group is next.
        """
        if not needed:
            return True
        if self.wanted_adapters is not None and not self.wanted_adapters.issuperset(needed):
            return False
        if len(self.adapters.union(needed)) > self.adapter_slots:
            return False
        self.adapters.update(needed)
        return True

    def wait_for_adapters(self, needed: frozenset[int]) -> None:
        """A group waits for adapter slots; the first that does decides who may pass it."""
        if self.wanted_adapters is None:
            self.wanted_adapters = needed
