"""Mixed precision by singular value, as in Delta-CoMe (Ping et al. 2024, arXiv:2406.08903).

The singular values of a fine-tune's change fall fast at first and slowly then, so the paper stores
the first few singular vectors with 8 bits a number, the next with 3 and the many others with 2.
The paper rounds with GPTQ, which needs the activations of calibration texts; here every number is
rounded to the nearest level, and each run of 128 numbers of one vector chooses the scale with the
least squared error. The levels lie half a step beside zero (-1.5, -0.5, 0.5, 1.5 times the scale
at 2 bits), as four levels with a zero among them would waste one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.weight_space.extract.extract_spec import BitGroup, rows_of_groups

RUN = 128
"""Numbers that share a scale; the group size of the paper."""

_RATIOS = torch.linspace(1.0, 0.2, 33)  # of the largest number's scale, tried in this order
_SMALLEST = 2.0**-24  # above zero in float16

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Quantized:
    """Vectors [r, n]: number = norm * scale * (code + 0.5 - 2**(bits - 1)).

    norms: [r] f32, of the vectors; scales: [r, ceil(n / 128)] f16, of the vectors of norm 1;
    codes: [r, n] u8, below 2**bits of the vector's group.
    """

    norms: Tensor
    scales: Tensor
    codes: Tensor

    def restore(self, groups: tuple[BitGroup, ...]) -> Tensor:
        """The vectors [r, n] f32."""
        rank, length = self.codes.shape
        vectors = torch.empty(rank, length)
        for first, end, bits in rows_of_groups(groups, rank):
            levels = self.codes[first:end].float() + (0.5 - 2 ** (bits - 1))
            scales = self.scales[first:end].float().repeat_interleave(RUN, 1)[:, :length]
            vectors[first:end] = self.norms[first:end, None] * scales * levels
        return vectors

    def to_bytes(self, groups: tuple[BitGroup, ...]) -> Bytes:
        """Norms, scales, then the codes bit by bit; every vector begins with a whole byte."""
        parts = [self.norms.numpy().view(np.uint8), self.scales.numpy().reshape(-1).view(np.uint8)]
        for first, end, bits in rows_of_groups(groups, len(self.codes)):
            for row in self.codes[first:end].numpy():
                each = np.unpackbits(row[:, None], axis=1, count=bits, bitorder="little")
                parts.append(np.packbits(each.reshape(-1), bitorder="little"))
        return np.concatenate(parts)

    @classmethod
    def from_bytes(
        cls, data: Bytes, groups: tuple[BitGroup, ...], rank: int, length: int
    ) -> Quantized:
        """The inverse of `to_bytes`, for `packed_size(groups, rank, length)` bytes."""
        runs = -(-length // RUN)
        norms = np.frombuffer(data[: 4 * rank].tobytes(), np.float32)
        start = 4 * rank + 2 * rank * runs
        scales = np.frombuffer(data[4 * rank : start].tobytes(), np.float16)
        codes = np.empty((rank, length), np.uint8)
        for first, end, bits in rows_of_groups(groups, rank):
            size = _row_bytes(bits, length)
            for row in range(first, end):
                each = np.unpackbits(
                    data[start : start + size], count=bits * length, bitorder="little"
                )
                codes[row] = np.packbits(each.reshape(length, bits), axis=1, bitorder="little")[
                    :, 0
                ]
                start += size
        return cls(
            torch.from_numpy(norms.copy()),
            torch.from_numpy(scales.reshape(rank, runs).copy()),
            torch.from_numpy(codes),
        )


def quantize(vectors: Tensor, groups: tuple[BitGroup, ...]) -> Quantized:
    """Vectors [r, n] f32, ordered by falling singular value."""
    rank, length = vectors.shape
    norms = vectors.norm(dim=1)
    runs = -(-length // RUN)
    scales = torch.empty(rank, runs, dtype=torch.float16)
    codes = torch.empty(rank, length, dtype=torch.uint8)
    for first, end, bits in rows_of_groups(groups, rank):
        for row in range(first, end):
            unit = vectors[row] / norms[row].clamp_min(torch.finfo(torch.float32).tiny)
            scales[row], codes[row] = _round(unit, bits)
    return Quantized(norms, scales, codes)


def packed_size(groups: tuple[BitGroup, ...], rank: int, length: int) -> int:
    """Bytes of `rank` packed vectors of `length` numbers: codes, scales and norms."""
    codes = sum(
        (end - first) * _row_bytes(bits, length)
        for first, end, bits in rows_of_groups(groups, rank)
    )
    return codes + rank * (4 + 2 * -(-length // RUN))


def _row_bytes(bits: int, length: int) -> int:
    return -(-bits * length // 8)


def _round(unit: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """A vector [n] -> scales [runs] f16, codes [n] u8."""
    length = unit.shape[0]
    padding = -length % RUN
    runs = torch.nn.functional.pad(unit, (0, padding)).view(-1, RUN)
    half = 2 ** (bits - 1)
    largest = runs.abs().amax(1) / (half - 0.5)
    # Every candidate as float16 will hold it: scales [candidates, runs].
    candidates = (_RATIOS[:, None] * largest).half().clamp_min(_SMALLEST)
    wide = candidates.float()[:, :, None]
    codes = (runs / wide).floor().clamp(-half, half - 1)
    errors = (runs - wide * (codes + 0.5)).square()
    if padding:
        errors[:, -1, -padding:] = 0
    best = errors.sum(2).argmin(0)
    every = torch.arange(runs.shape[0])
    return candidates[best, every], (codes[best, every] + half).to(torch.uint8).view(-1)[:length]
