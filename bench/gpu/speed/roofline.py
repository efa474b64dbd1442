"""How fast a step of decoding could be if it only had to read memory.

A step reads all weights once, whatever the number of rows, the adapters in use, and the keys and
values of every row. At high concurrency arithmetic takes longer than this.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from bench.gpu.speed.shapes import Config

ELEMENT_BYTES = 2  # bfloat16
COPIES = 5


@dataclass(frozen=True, slots=True)
class Reads:
    """What one step reads of one model."""

    config: Config
    rows: int
    adapters: int  # different ones, that are in use
    context: float  # tokens before the new one, mean over the step's rows and the answer

    def bytes(self) -> float:
        """Return the bytes of weights, adapters, keys and values."""
        adapters = self.adapters * self.config.adapter_numbers()
        cache = self.rows * self.context * self.config.cached_numbers()
        return ELEMENT_BYTES * (self.config.weights() + adapters + cache)


def bound_s(reads: list[Reads], bytes_per_s: float) -> float:
    """Return the least seconds of a step that reads these of its models one after the other."""
    return sum(r.bytes() for r in reads) / bytes_per_s


def bandwidth(device: torch.device, size: int) -> float:
    """Return bytes per second that a copy of `size` bytes within a device reads and writes."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(5):
        _wait(device)
        start = time.perf_counter()
        for _ in range(COPIES):
            target.copy_(source)
        _wait(device)
        seconds.append((time.perf_counter() - start) / COPIES)
    return 2 * size / min(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
