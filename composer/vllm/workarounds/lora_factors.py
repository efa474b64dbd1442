"""The factors of a layer's adapters, and three ways to add their products to an output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import embedding_bag
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA

from composer.vllm.workarounds.lora_rows import (
    SIDE_BY_SIDE,
    FewAdapters,
    ManyAdapters,
    table_rows,
)

MOST_PACKED = 8
"""Adapters that a layer's packs hold together: they double the memory of as many slots, or more."""


@dataclass(frozen=True, slots=True)
class Pack:
    """The factors of some slots side by side, without unused ranks, in float32."""

    slots: tuple[int, ...]  # sorted
    width: int  # columns of `a` for each slot: slices * rank; 0: none of the slots has factors
    a: torch.Tensor  # [in, slots * width] f32
    b: torch.Tensor  # [slots * width, sum of sizes] f32, zero where a slice is not the rank's
    finite: bool  # of all factors: a row's zero times another adapter's infinity is not zero


class LayerFactors(tuple[torch.Tensor, ...]):
    """vLLM's `lora_a_stacked`, `[slots, 1, r, in]` per slice, as views of one tensor.

    The layer writes an adapter's factors through these views.
    """

    a: torch.Tensor  # [slots, in, slices, r]
    b: tuple[torch.Tensor, ...]  # per slice [slots, r, size]
    _packs: list[Pack]  # the latest last
    _version: tuple[int, ...]  # of the factors that the packs were made from

    @staticmethod
    def like(
        a_stacked: tuple[torch.Tensor, ...], b_stacked: tuple[torch.Tensor, ...]
    ) -> LayerFactors:
        """Return zeros in the place of vLLM's tensors."""
        slots, _, rank, width = a_stacked[0].shape
        a = a_stacked[0].new_zeros(slots, width, len(a_stacked), rank)
        factors = LayerFactors(part.permute(0, 2, 3, 1) for part in a.split(1, 2))
        factors.a = a
        factors.b = tuple(b.new_zeros(slots, rank, b.shape[2]) for b in b_stacked)
        factors._packs, factors._version = [], ()
        return factors

    def add_to_run(self, y: torch.Tensor, x: torch.Tensor, slot: int) -> None:
        """Add one adapter's product to consecutive rows: `x [n, in]`, `y [n, sum of sizes]`."""
        h = x.to(self.a.dtype) @ self.a[slot].flatten(1)
        end = 0
        for part, b in zip(h.chunk(len(self.b), 1), self.b, strict=True):
            begin, end = end, end + b.shape[2]
            y[:, begin:end].addmm_(part, b[slot])

    def add_to_few(self, y: torch.Tensor, x: torch.Tensor, few: FewAdapters) -> None:
        """Multiply rows by the factors of all their adapters; keep each row's own products.

        In float32: a small product in bfloat16 takes ten times as long to call, and the sum is
        rounded once.
        """
        pack = self.pack(few.slots)
        if not pack.width:
            return
        if not pack.finite:
            self._add_one_by_one(y, x, few)
            return
        if isinstance(few.rows, slice):
            part = y[few.rows]
            total = self._added(part, x[few.rows], few.mask(pack.slots, pack.width), pack)
            if total is not part:
                part.copy_(total)
        else:
            part, rows = y.index_select(0, few.rows), x.index_select(0, few.rows)
            total = self._added(part, rows, few.mask(pack.slots, pack.width), pack)
            y.index_copy_(0, few.rows, total.to(y.dtype))

    def _add_one_by_one(self, y: torch.Tensor, x: torch.Tensor, few: FewAdapters) -> None:
        """Multiply the rows of each adapter by its own factors only."""
        rows = torch.arange(len(x))[few.rows]
        for slot in few.slots:
            own = rows[few.slot_of == slot]
            part = torch.zeros(len(own), y.shape[1], dtype=self.a.dtype)
            self.add_to_run(part, x.index_select(0, own), slot)
            y.index_add_(0, own, part.to(y.dtype))

    def add_to_many(self, y: torch.Tensor, x: torch.Tensor, many: ManyAdapters) -> None:
        """Multiply each row by the factors of its slot."""
        h = _times(x.index_select(0, many.rows).to(self.a.dtype), self.a.flatten(2), many.slots)
        parts = [
            _times(part, b, many.slots)
            for part, b in zip(h.chunk(len(self.b), 1), self.b, strict=True)
        ]
        delta = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        y.index_add_(0, many.rows, delta.to(y.dtype))

    @staticmethod
    def _added(y: torch.Tensor, x: torch.Tensor, others: torch.Tensor, pack: Pack) -> torch.Tensor:
        """Return the sum in float32, which is `y` itself if that is float32."""
        h = torch.mm(x.float(), pack.a).masked_fill_(others, 0.0)
        return y.float().addmm_(h, pack.b)

    def pack(self, slots: tuple[int, ...]) -> Pack:
        """Return a pack with these slots, made again once the factors of any slot have changed.

        It may hold other slots as well: where routers choose among few adapters, all their
        combinations use one pack.
        """
        version = (self.a._version, *(b._version for b in self.b))
        if version != self._version:
            self._packs.clear()
            self._version = version
        wanted = {*slots}
        for pack in reversed(self._packs):
            if wanted.issubset(pack.slots):
                return pack
        if self._packs and len(wanted | {*self._packs[-1].slots}) <= SIDE_BY_SIDE:
            wanted |= {*self._packs.pop().slots}
        while self._packs and sum(len(p.slots) for p in self._packs) + len(wanted) > MOST_PACKED:
            self._packs.pop(0)
        self._packs.append(self._packed(sorted(wanted)))
        return self._packs[-1]

    def _packed(self, slots: list[int]) -> Pack:
        a = self.a[slots].float()  # [G, in, slices, r]
        used = (a != 0).any(0).any(0).any(0)  # [r]
        rank = int(used.nonzero()[-1]) + 1 if used.any() else 0
        a = a[..., :rank].permute(1, 0, 2, 3).flatten(1)
        sizes = [b.shape[2] for b in self.b]
        b = a.new_zeros(len(slots), len(sizes), rank, sum(sizes))
        for k, part in enumerate(b.split(sizes, 3)):
            part[:, k] = self.b[k][slots, :rank]
        b = b.flatten(0, 2)
        finite = bool(a.isfinite().all() and b.isfinite().all())
        return Pack(tuple(slots), len(sizes) * rank, a, b, finite)


def lay_out(layer: BaseLinearLayerWithLoRA) -> None:
    """Store the factors of all slots in the layout that the products read contiguously."""
    factors = LayerFactors.like(layer.lora_a_stacked, layer.lora_b_stacked)
    layer.lora_a_stacked = factors
    layer.lora_b_stacked = tuple(b.unsqueeze(1).transpose(2, 3) for b in factors.b)


def _times(x: torch.Tensor, factors: torch.Tensor, slots: tuple[int, ...]) -> torch.Tensor:
    """Return `out[i] = x[i] factors[slot of i]`: `[n, in]`, `[slots, in, out]` -> `[n, out]`.

    A product of a row and a matrix is a weighted sum of the matrix's rows. PyTorch's embedding bag
    computes many such sums over one table, copies no weights and takes any mixture of slots at
    once.
    """
    indices, offsets = table_rows(slots, x.shape[1])
    return embedding_bag(
        indices, factors.flatten(0, 1), offsets, mode="sum", per_sample_weights=x.flatten()
    )
