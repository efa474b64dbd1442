"""Rows of a batch by their adapter, sorted once per step and used by all layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch

LONG = 16
"""Consecutive rows of one adapter from which they are a run: a chunk of a prompt, mostly."""

SIDE_BY_SIDE = 4
"""Adapters up to which all rows are multiplied by all adapters' factors.

The unneeded products cost less than one call per adapter. With 8 adapters the two methods break
even, for layers of 576 and 1536 inputs in float32 and bfloat16."""


@dataclass(frozen=True, slots=True)
class FewAdapters:
    """Rows whose adapters are few; rows without an adapter may lie between them."""

    rows: slice | torch.Tensor  # a slice, or indices [n] int64
    slots: tuple[int, ...]  # of the adapters, sorted
    slot_of: torch.Tensor  # [n] int64: the slot of each row, -1 for a row without an adapter
    _masks: dict[tuple[tuple[int, ...], int], torch.Tensor] = field(default_factory=dict)

    def mask(self, slots: tuple[int, ...], width: int) -> torch.Tensor:
        """Return which columns are of other adapters than the row's, `[n, slots * width]` bool.

        Args:
            slots: the columns' adapters, `width` columns each.
            width: columns of an adapter.
        """
        mask = self._masks.get((slots, width))
        if mask is None:
            of_column = torch.tensor(slots).repeat_interleave(width)
            mask = self._masks[slots, width] = self.slot_of.unsqueeze(1) != of_column
        return mask


@dataclass(frozen=True, slots=True)
class ManyAdapters:
    """Rows with more adapters than `SIDE_BY_SIDE`, sorted by slot."""

    rows: torch.Tensor  # [n] int64
    slots: tuple[int, ...]  # [n], sorted


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a batch that have an adapter, each in exactly one of the three parts."""

    runs: tuple[tuple[int, slice], ...] = ()  # slot, its rows
    few: FewAdapters | None = None
    many: ManyAdapters | None = None

    @staticmethod
    @lru_cache(maxsize=128)
    def of(slots: tuple[int, ...]) -> Rows:
        """Sort rows by their slots (-1: no adapter).

        Cached, because a batch recurs from step to step while it decodes. Where routers choose
        among few adapters, their combinations recur (81 of three adapters and four requests).
        """
        runs, rest = _split(slots)
        if not rest:
            return Rows(runs)
        distinct = tuple(sorted({slots[row] for row in rest}))
        if len(distinct) > SIDE_BY_SIDE:
            in_order = sorted(rest, key=lambda row: slots[row])
            rows = torch.tensor(in_order)
            return Rows(runs, many=ManyAdapters(rows, tuple(slots[row] for row in in_order)))
        first, end = rest[0], rest[-1] + 1
        dense = end - first <= 2 * len(rest)  # then a slice costs less than an index
        slot_of_row = [slots[row] for row in rest]
        if dense:
            member = {*rest}
            slot_of_row = [slots[row] if row in member else -1 for row in range(first, end)]
        where = slice(first, end) if dense else torch.tensor(rest)
        return Rows(runs, few=FewAdapters(where, distinct, torch.tensor(slot_of_row)))


def _split(slots: tuple[int, ...]) -> tuple[tuple[tuple[int, slice], ...], list[int]]:
    """Return the runs, and the other rows that have an adapter, ascending."""
    runs: list[tuple[int, slice]] = []
    rest: list[int] = []
    begin = 0
    for row in range(1, len(slots) + 1):
        if row < len(slots) and slots[row] == slots[begin]:
            continue
        if slots[begin] >= 0:
            if row - begin >= LONG:
                runs.append((slots[begin], slice(begin, row)))
            else:
                rest += range(begin, row)
        begin = row
    return tuple(runs), rest


@lru_cache(maxsize=16)
def table_rows(slots: tuple[int, ...], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which rows of a table the matrices of these slots are, `[n * width]` int32, and the
    offsets of the matrices in that list, `[n]` int32. Each matrix has `width` rows of the table.

    Cached: all layers of a step use the same few of them. Each takes as much memory as the rows.
    """
    first = torch.tensor(slots, dtype=torch.int32).unsqueeze(1) * width
    offsets = torch.arange(0, len(slots) * width, width, dtype=torch.int32)
    return (first + torch.arange(width, dtype=torch.int32)).flatten(), offsets
