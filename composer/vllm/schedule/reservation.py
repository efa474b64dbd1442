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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from vllm.v1.request import Request

from composer.vllm.schedule.gang import Gang, Slot, model_of
from composer.vllm.schedule.limits import GroupLimits


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
    def to_admit(group: Gang, limits: GroupLimits) -> Need:
        """Of the rows of a gang with the tokens that they have now."""
        blocks: Counter[str | None] = Counter()
        for row in group.rows:
            model = model_of(row)
            blocks[model] += limits.models[model].room.of_tokens(row.num_tokens)
        return Need(len(group.rows), blocks, group.adapters)


@dataclass(slots=True)
class Reservation:
    """The room of one gang, and who was admitted after it while it waits.

    Keeps the sums of what all of them need, so that refusing a request costs the same however many
    have passed.
    """

    group: Gang
    limits: GroupLimits
    runs: Callable[[Request], bool]
    """Whether a request is admitted, so that what it needs is in use."""
    asked: bool = True
    """Whether the gang has had its turn in this step. It makes its reservation in its turn."""
    passed: dict[str, tuple[Request, Need]] = field(default_factory=dict)  # by request id
    rows: int = 0
    blocks: Counter[str | None] = field(default_factory=Counter)
    adapters: Counter[Slot] = field(default_factory=Counter)
    """How many need each adapter."""

    def __post_init__(self) -> None:
        self._add(Need.to_admit(self.group, self.limits))

    def begin_step(self) -> None:
        """Forget those that have left the batch; the gang has yet to be asked."""
        self.asked = False
        for name in [name for name, (one, _) in self.passed.items() if not self.runs(one)]:
            _, need = self.passed.pop(name)
            self.rows -= need.rows
            self.blocks.subtract(need.blocks)
            self.adapters -= Counter(need.adapters)  # keeps positive counts only

    def lets_pass(self, need: Need) -> bool:
        """Whether the engine, empty, would hold a request beside the gang and all that passed."""
        models = self.limits.models
        if self.rows + need.rows > self.limits.rows or any(
            self.blocks[model] + blocks > models[model].room.capacity
            for model, blocks in need.blocks.items()
        ):
            return False
        if need.adapters <= self.adapters.keys():
            return True
        used = Counter(model for model, _ in self.adapters.keys() | need.adapters)
        return all(used[model] <= models[model].adapters for model, _ in need.adapters)

    def count(self, request: Request, need: Need) -> None:
        """Count a request that passes, until it leaves the batch."""
        self.passed[request.request_id] = (request, need)
        self._add(need)

    def _add(self, need: Need) -> None:
        self.rows += need.rows
        self.blocks.update(need.blocks)
        self.adapters.update(need.adapters)
