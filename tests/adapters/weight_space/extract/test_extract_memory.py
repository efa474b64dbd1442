"""Peak memory on large layers, measured by the operating system in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.adapters.weight_space.extract.models import UP, Q, write_model

SIDE, RANK = 4096, 16
LAYER_MIB = SIDE * SIDE * 4 / 2**20  # one float32 matrix: 64
ADAPTER_MIB = 2 * 2 * SIDE * RANK * 4 / 2**20  # of two layers: 1

# The high-water mark of the process may lie above what it holds when the extraction begins, and
# would hide growth below it. So ballast first fills that gap, and stays.
MEASURE = """
import resource, sys
from pathlib import Path
import torch
from adapters.weight_space.extract import ExtractSpec, extract

def high_water():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

root, out, rank = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
spec = ExtractSpec(rank=rank)
extract(spec, root / "small", root / "small-tuned", out / "warm")  # the libraries' buffers
ballast, before = [], high_water()
while high_water() == before:
    ballast.append(torch.ones(2**18))  # one MiB
before = high_water()
extract(spec, root / "large", root / "large-tuned", out / "large")
print((high_water() - before) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs getrusage")
def test_peak_memory(tmp_path: Path) -> None:
    """Below twice the largest layer and the adapter, though there are two layers in two models."""
    generator = torch.Generator().manual_seed(0)
    for name, side in (("small", 600), ("large", SIDE)):
        base = {
            f"{module}.weight": torch.empty(side, side).uniform_(generator=generator)
            for module in (Q, UP)
        }
        write_model(tmp_path / name, base)
        for weight in base.values():
            weight += torch.randn(side, 8, generator=generator) @ torch.ones(8, side)
            weight[::7] += 0.1
        write_model(tmp_path / f"{name}-tuned", base)
        del base, weight
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), str(tmp_path), str(RANK)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert LAYER_MIB < float(done.stdout) < 2 * LAYER_MIB + ADAPTER_MIB
