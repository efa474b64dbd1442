"""What one scheduling step may still give away, while vLLM's loop runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from composer.vllm.rows import RowGroup, Slot


@dataclass(slots=True)
class Step:
    """The books of one step that involves groups."""

    budget: int
    """Tokens left of `max_num_scheduled_tokens`."""
    slots: int
    """Requests that may run at once."""
    adapter_slots: Mapping[str | None, int]
    """Different adapters that may run at once, of each model."""
    throttled: bool = False
    """vLLM defers prefills in this step: no group may start or be released."""
    reserved: int = 0
    """Tokens of the budget kept for rows that decode and have not had their turn."""
    absent: int = 0
    """Rows of admitted groups that hold a slot but do not join in this step."""
    adapters: set[Slot] = field(default_factory=set)
    """The adapters of everything that runs or was admitted."""
    wanted_adapters: frozenset[Slot] | None = None
    """The adapters of the first group that waits for adapter slots."""
    exhausted: frozenset[str | None] = frozenset()
    """Auxiliary models whose KV cache a group waits for: nobody else may start to use them."""
    released: list[RowGroup] = field(default_factory=list)
    """Groups whose rows all run for the first time in this step."""

    @property
    def unreserved(self) -> int:
        """Tokens that a prefill may take."""
        return max(self.budget - max(self.reserved, 0), 0)

    def has_slots(self, needed: Collection[Slot]) -> bool:
        """Whether there are adapter slots for these beside those in use.

        Once a group waits for slots, nobody behind it may take or keep one of its models that it
        does not need: requests without an adapter pass, the slots drain, and the group is next.
        """
        if not needed:
            return True
        if wanted := self.wanted_adapters:
            models = {model for model, _ in wanted}
            if any(slot[0] in models and slot not in wanted for slot in needed):
                return False
        used = Counter(model for model, _ in self.adapters.union(needed))
        return all(used[model] <= self.adapter_slots[model] for model, _ in needed)

    def take_adapters(self, needed: Collection[Slot]) -> bool:
        """Take adapter slots, if there are enough."""
        if not self.has_slots(needed):
            return False
        self.adapters.update(needed)
        return True

    def wait_for_adapters(self, needed: frozenset[Slot]) -> None:
        """A group waits for adapter slots; the first that does decides who may pass it."""
        if self.wanted_adapters is None:
            self.wanted_adapters = needed
