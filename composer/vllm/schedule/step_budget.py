"""What one scheduling step can still give away, while vLLM's loop runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from composer.vllm.schedule.gang import Gang, Slot


@dataclass(slots=True)
class StepBudget:
    """The budget of one step that involves gangs."""

    tokens: int  # left of `max_num_scheduled_tokens`
    rows: int  # requests that may run at once
    adapter_slots: Mapping[str | None, int]  # different adapters that may run at once, by model
    reserved: int = 0  # tokens kept for rows that decode and have not had their turn
    absent: int = 0  # rows of admitted gangs that hold a place but do not join in this step
    adapters: set[Slot] = field(default_factory=set)  # of all that runs or was admitted
    refused: dict[str | None, int] = field(default_factory=dict)
    """By model whose KV cache did not hold a gang: the tokens of the smallest such gang there."""
    released: list[Gang] = field(default_factory=list)  # all their rows run for the first time

    @property
    def unreserved(self) -> int:
        """Tokens that a prefill may take."""
        return max(self.tokens - max(self.reserved, 0), 0)

    def refuse(self, gang: Gang, models: Iterable[str | None]) -> None:
        """Remember that the KV caches of these models do not hold a gang."""
        tokens = gang.tokens()
        for model in models:
            self.refused[model] = min(tokens[model], self.refused.get(model, tokens[model]))

    def refuses(self, gang: Gang) -> bool:
        """Return whether a gang has at least as many tokens on a model as one that did not fit."""
        if self.refused.keys().isdisjoint(gang.models):
            return False
        tokens = gang.tokens()
        return any(tokens[model] >= least for model, least in self.refused.items())

    def has_slots(self, adapters: Collection[Slot]) -> bool:
        """Return whether there are slots for these adapters beside those in use."""
        if not adapters:
            return True
        used = Counter(model for model, _ in self.adapters.union(adapters))
        return all(used[model] <= self.adapter_slots[model] for model, _ in adapters)

    def take_slots(self, adapters: Collection[Slot]) -> bool:
        """Take adapter slots, if there are enough."""
        if not self.has_slots(adapters):
            return False
        self.adapters.update(adapters)
        return True
