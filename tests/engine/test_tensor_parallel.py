"""Two workers, each with half of every model: the answers are those of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from composer.reference.oracle import Oracle, Weights
from tests.engine.harness import count_mismatches
from tests.engine.tensor_parallel import JOBS

PROJECT = Path(__file__).resolve().parents[2]
CORES = sorted(os.sched_getaffinity(0))[:2]
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, CORES)),  # one for each worker
    "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
}


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.skipif(len(CORES) < 2, reason="a worker needs a core of its own")
def test_composed_answers_of_two_workers(
    tmp_path: Path,
    zoo_base: Path,
    zoo_adapters: dict[str, Path],
    zoo_small: Path,
    zoo_small_adapters: dict[str, Path],
) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.engine.tensor_parallel", str(tmp_path / "answers.json")],
        cwd=PROJECT,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=600,  # with the interpreter, on a busy machine
    )
    assert run.returncode == 0, run.stderr[-4000:]
    *answers, lost = json.loads((tmp_path / "answers.json").read_text())
    assert lost == []
    auxiliaries: dict[str, Weights] = {"small": (zoo_small, zoo_small_adapters)}
    oracle = Oracle(zoo_base, zoo_adapters, auxiliaries)
    assert all(len(answer) == 16 for answer in answers)
    assert count_mismatches(oracle, JOBS, answers) == (0, 0)
