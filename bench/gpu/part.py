"""What the parts of the check share: the device, options of engines, and sections of the report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from bench.gpu.budget import Budget
from bench.gpu.speed.cells import Cell
from bench.inprocess import BLOCK_TOKENS
from bench.machine.processes import resident_bytes

Section = dict[str, Any]
"""Of the report: `heading`, `about`, `rows` with equal keys, and `left_out`, what had no time."""

GRAPHS: dict[str, Any] = {"enforce_eager": False, "gpu_memory_utilization": 0.5}
"""Engine options on CUDA beside those on a CPU."""

ROOMY_GIB = 70
"""Device memory from which on the larger shape has room, with caches for all rows."""


class Part:
    """The conditions of a part: sizes are smaller on a CPU, which only rehearses.

    Args:
        seconds: after these nothing new starts.
        shape: a key of `bench.gpu.speed.shapes.SHAPES`; None chooses by the device.
        quick: whether to measure less.
        bytes_per_s: the device's memory bandwidth.
    """

    block_tokens = BLOCK_TOKENS

    def __init__(
        self, seconds: float, shape: str | None, *, quick: bool, bytes_per_s: float
    ) -> None:
        self.cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.cuda else "cpu")
        self.budget = Budget(seconds)
        self.quick = quick
        self.shape = shape or self._shape()
        self.bytes_per_s = bytes_per_s
        self.rounds = (2 if quick else 5) if self.cuda else 3

    def _shape(self) -> str:
        if not self.cuda:
            return "tiny"
        gib = torch.cuda.get_device_properties(0).total_memory / 2**30
        return "8b" if gib >= ROOMY_GIB else "1b"

    def engine_options(self, dtype: str = "bfloat16") -> dict[str, Any]:
        """Return async scheduling, and CUDA graphs where there is CUDA."""
        return {"dtype": dtype, "asynchronous": True, **(GRAPHS if self.cuda else {})}

    def speed_options(self) -> dict[str, Any]:
        """Return the options of engines for the speed table, with room for all its rows."""
        options = self.engine_options() | {"kv_blocks": None, "max_model_len": 1024}
        if not self.cuda:
            return options
        rows = 3 * max(cell.requests for cell in self.cells())
        memory = {"kv_cache_memory_bytes": None, "gpu_memory_utilization": 0.85}
        return options | memory | {"max_num_seqs": rows, "max_num_batched_tokens": 8192}

    def auxiliary_options(self) -> dict[str, Any]:
        """Return them with room for the one adapter and two rows of an auxiliary model."""
        memory = (8 << 30) if self.cuda else (64 << 20)
        return self.speed_options() | {"auxiliary_slots": 1, "auxiliary_kv_bytes": memory}

    def cells(self) -> list[Cell]:
        """Return the cells of the speed table, those with few requests first."""
        counts = (1, 8, 64, 256) if self.cuda else (1, 4)
        lengths = ((8, 512), (512, 8), (8, 8)) if self.cuda else ((4, 24), (24, 4), (4, 4))
        return [Cell(n, prompt, answer) for n in counts for prompt, answer in lengths]

    def memory(self) -> Section:
        """Return the memory in use at the end of a part."""
        if not self.cuda:
            return section("Memory", "", [_memory("resident", resident_bytes(os.getpid()))])
        free, total = torch.cuda.mem_get_info()
        rows = [
            _memory("in use on the device", total - free),
            _memory("allocated by torch, at most", torch.cuda.max_memory_allocated()),
        ]
        return section("Memory", "", rows)


def section(
    heading: str, about: str, rows: Sequence[dict[str, Any]], left_out: Sequence[str] = ()
) -> Section:
    """Return a section of the report."""
    return {"heading": heading, "about": about, "rows": list(rows), "left_out": list(left_out)}


def _memory(what: str, count: int) -> dict[str, Any]:
    return {"what": what, "value": f"{count / 2**30:.1f} GiB"}
