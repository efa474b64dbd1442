"""The capacity kept for a gang that has waited long enough.

A gang needs much at once. If whatever fits may pass it, small requests keep it out forever; if
nothing may pass it, one gang holds up everybody although there is room. Requests that fit therefore
pass a gang for a bounded time (`--gang-patience`); then its capacity is reserved: requests that
arrived later may together take at most what the engine has beyond the gang's own need. What ran
before ends at some time, so the gang is admitted at the latest when the longest answer that runs by
then is complete; and what it does not need stays open to others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from vllm.v1.request import Request

from composer.vllm.schedule.gang import Gang, Slot, model_of
from composer.vllm.schedule.limits import EngineLimits


@dataclass(frozen=True, slots=True)
class Need:
    """What a request takes of the engine at most: now, or up to its last token (`of`)."""

    rows: int
    blocks: Mapping[str | None, int]  # KV cache blocks of each model, none of them shared
    adapters: frozenset[Slot]

    @staticmethod
    def of(
        rows: Collection[Request], adapters: Iterable[Slot], limits: EngineLimits, *, now: bool
    ) -> Need:
        """Return the need of rows: with `now` for the tokens that they have, otherwise for all that
        they may ever have."""
        blocks: Counter[str | None] = Counter()
        for row in rows:
            final = 0 if now else row.num_prompt_tokens + row.max_tokens - 1
            model = model_of(row)
            blocks[model] += limits.models[model].kv.of_tokens(max(row.num_tokens, final))
        return Need(len(rows), blocks, frozenset(adapters))


@dataclass(slots=True)
class Reservation:
    """The capacity of one gang, and who was admitted after it while it waits.

    Keeps the sums of what all of them need, so that refusing a request costs the same however many
    have passed.
    """

    gang: Gang
    limits: EngineLimits
    is_admitted: Callable[[Request], bool]
    gang_had_turn: bool = True
    """Whether the gang was considered in this step. It is when the reservation is made."""
    passed: dict[str, tuple[Request, Need]] = field(default_factory=dict)  # by request id
    rows: int = 0
    blocks: Counter[str | None] = field(default_factory=Counter)
    adapters: Counter[Slot] = field(default_factory=Counter)  # how many need each of them

    def __post_init__(self) -> None:
        self._add(Need.of(self.gang.rows, self.gang.adapters, self.limits, now=True))

    def begin_step(self) -> None:
        """Forget requests that have left the batch."""
        self.gang_had_turn = False
        for request_id, (request, need) in list(self.passed.items()):
            if not self.is_admitted(request):
                del self.passed[request_id]
                self.rows -= need.rows
                self.blocks.subtract(need.blocks)
                self.adapters -= Counter(need.adapters)  # keeps positive counts only

    def lets_pass(self, need: Need) -> bool:
        """Return whether the engine, empty, would hold a request beside the gang and all that
        passed."""
        models = self.limits.models
        if self.rows + need.rows > self.limits.rows or any(
            self.blocks[model] + blocks > models[model].kv.capacity
            for model, blocks in need.blocks.items()
        ):
            return False
        if need.adapters <= self.adapters.keys():
            return True
        used = Counter(model for model, _ in self.adapters.keys() | need.adapters)
        return all(used[model] <= models[model].capacity.adapters for model, _ in need.adapters)

    def count(self, request: Request, need: Need) -> None:
        """Count a request that passes, until it leaves the batch."""
        self.passed[request.request_id] = (request, need)
        self._add(need)

    def _add(self, need: Need) -> None:
        self.rows += need.rows
        self.blocks.update(need.blocks)
        self.adapters.update(need.adapters)
