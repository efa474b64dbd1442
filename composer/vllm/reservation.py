"""Room kept for a gang that has waited long enough.

A gang needs much at once. If whatever fits may pass it, small requests keep it out forever; if
nothing may pass it, one gang holds up everybody although there is room. So requests that fit pass
a gang for a bounded time (`--gang-patience`), and then its room is kept: requests that arrived
later may together take at most what the engine has beyond the gang's own need. What ran before
ends at some time, so the gang is admitted at the latest when the longest answer that runs by then
is complete; and what it does not need stays open to others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vllm.v1.request import Request

from composer.vllm.limits import GroupLimits
from composer.vllm.rows import RowGroup, Slot, model_of


@dataclass(frozen=True, slots=True)
class Need:
    """What a request takes of the engine at most, from its admission to its last token."""

    rows: int
    blocks: Mapping[str | None, int]
    """KV cache blocks of each model, without sharing any with others."""
    adapters: frozenset[Slot]

    @staticmethod
    def of(rows: Iterable[Request], adapters: Iterable[Slot], limits: GroupLimits) -> Need:
        """Of rows with all the tokens that they may ever have."""
        rows = list(rows)
        blocks: Counter[str | None] = Counter()
        for row in rows:
            model = model_of(row)
            tokens = max(row.num_tokens, row.num_prompt_tokens + row.max_tokens - 1)
            blocks[model] += limits.models[model].room.of_tokens(tokens)
        return Need(len(rows), blocks, frozenset(adapters))

    @staticmethod
    def to_admit(group: RowGroup, limits: GroupLimits) -> Need:
        """Of the rows of a gang with the tokens that they have now."""
        blocks: Counter[str | None] = Counter()
        for row in group.rows:
            model = model_of(row)
            blocks[model] += limits.models[model].room.of_tokens(row.num_tokens)
        return Need(len(group.rows), blocks, group.adapters)


@dataclass(slots=True)
class Reservation:
    """The room of one gang, and who was admitted after it while it waits."""

    group: RowGroup
    limits: GroupLimits
    runs: Callable[[Request], bool]
    """Whether a request is admitted, so that what it needs is in use."""
    need: Need = field(init=False)
    passed: dict[str, tuple[Request, Need]] = field(default_factory=dict)  # by request id

    def __post_init__(self) -> None:
        self.need = Need.to_admit(self.group, self.limits)

    def lets_pass(self, request: Request, need: Need) -> bool:
        """Whether a request that fits may be admitted, as far as the gang is concerned.

        If it may, it is counted from now on, until it leaves the batch.
        """
        if request.request_id in self.passed:
            return True
        self.passed = {id: one for id, one in self.passed.items() if self.runs(one[0])}
        together = [self.need, need, *(own for _, own in self.passed.values())]
        if not self._fit(together):
            return False
        self.passed[request.request_id] = (request, need)
        return True

    def _fit(self, needs: Sequence[Need]) -> bool:
        """Whether the engine, empty, would hold all of these together."""
        blocks: Counter[str | None] = Counter()
        adapters: set[Slot] = set()
        for need in needs:
            blocks.update(need.blocks)
            adapters |= need.adapters
        used = Counter(model for model, _ in adapters)
        return sum(need.rows for need in needs) <= self.limits.rows and all(
            blocks[model] <= limits.room.capacity and used[model] <= limits.adapters
            for model, limits in self.limits.models.items()
        )
