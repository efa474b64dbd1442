"""Peak memory on a large layer, measured by the operating system in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.adapters.weight_space.merge.samples import write

SIDE = 4096
LAYER_MIB = SIDE * SIDE * 4 / 2**20  # one dense float32 delta: 64

# The high-water mark of the process may lie above what it holds when the merge begins, and would
# hide growth below it. So ballast first fills that gap, and stays.
MEASURE = """
import ctypes, resource, sys
from pathlib import Path
import torch
from adapters.weight_space.factors import AdapterReader
from adapters.weight_space.merge import MergeSpec, merge

def high_water():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

method, out, warm_up, *folders = sys.argv[1:]
spec = {"method": method, "adapters": [{"adapter": f"a{i}"} for i in range(len(folders))]}
spec = MergeSpec.from_json(spec | {"rank": 8})
merge(spec, [AdapterReader(Path(warm_up))] * len(folders), Path(out, "warm"))  # libraries' buffers
readers = [AdapterReader(Path(folder)) for folder in folders]
ballast, before = [], high_water()
while high_water() == before:
    ballast.append(torch.ones(2**18))  # one MiB
before = high_water()
merge(spec, readers, Path(out, "merged"))
print((high_water() - before) / 2**20)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("large")
    shapes = {"model.layers.0.mlp.up_proj": (SIDE, SIDE)}
    small = {"model.layers.0.mlp.up_proj": (600, 700)}
    return [write(root / "small", 0, shapes=small)] + [
        write(root / str(seed), seed, shapes=shapes, rank=8) for seed in range(3)
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs getrusage")
@pytest.mark.parametrize(
    ("method", "layers"),
    [("svd", 0.2), ("dare_ties", 2), ("slack", 2)],
)
def test_peak_memory(tmp_path: Path, folders: list[Path], method: str, layers: float) -> None:
    """Below `layers` times the largest dense delta, beside the adapters themselves."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, method, str(tmp_path), *map(str, folders)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    adapters_mib = 4 * 2 * SIDE * 8 * 4 / 2**20  # three inputs and the result
    assert float(done.stdout) < layers * LAYER_MIB + 2 * adapters_mib
