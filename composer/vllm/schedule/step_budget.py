"""What one scheduling step may still give away, while vLLM's loop runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from composer.vllm.schedule.gang import Gang, Slot


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
    refused: dict[str | None, int] = field(default_factory=dict)
    """Of each model whose KV cache had no room for a group: the tokens that the smallest such group
    wanted of it."""
    released: list[Gang] = field(default_factory=list)
    """Groups whose rows all run for the first time in this step."""

    @property
    def unreserved(self) -> int:
        """Tokens that a prefill may take."""
        return max(self.budget - max(self.reserved, 0), 0)

    def refuse(self, group: Gang, short: Iterable[str | None]) -> None:
        """Remember that the KV caches of some models have no room for a group."""
        tokens = group.tokens()
        for model in short:
            self.refused[model] = min(tokens[model], self.refused.get(model, tokens[model]))

    def refuses(self, group: Gang) -> bool:
        """Whether a group wants no less of a KV cache than one that found no room there."""
        if self.refused.keys().isdisjoint(group.models):
            return False
        tokens = group.tokens()
        return any(tokens[model] >= least for model, least in self.refused.items())

    def has_slots(self, needed: Collection[Slot]) -> bool:
        """Whether there are adapter slots for these beside those in use."""
        if not needed:
            return True
        used = Counter(model for model, _ in self.adapters.union(needed))
        return all(used[model] <= self.adapter_slots[model] for model, _ in needed)

    def take_adapters(self, needed: Collection[Slot]) -> bool:
        """Take adapter slots, if there are enough."""
        if not self.has_slots(needed):
            return False
        self.adapters.update(needed)
        return True
