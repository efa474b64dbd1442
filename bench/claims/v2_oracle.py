"""The claim `oracle` on vLLM's V2 model runner, with Triton's interpreter where there is no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bench.claim import Result
from bench.machine.environment import original
from bench.measure import show

ROOT = Path(__file__).resolve().parent.parent.parent
INTERPRETER = Path(sys.prefix) / "interpreter"

PROGRAM = """
import tests.support.triton_on_cpu
from bench.machine.environment import prepare
prepare()
import json
from bench.claims.oracle import measure
result = measure()
print(json.dumps([result.value, result.holds]))
"""


def measure() -> Result:
    """Return the number of mismatching and lost requests, plus objects left in the engine.

    Raises:
        RuntimeError: Triton is not installed.
        subprocess.CalledProcessError: the engine failed; it has printed why.
    """
    if not INTERPRETER.is_dir():
        raise RuntimeError(f"{INTERPRETER} is missing; `make {INTERPRETER}` installs Triton there")
    environment = original() | {
        "VLLM_USE_V2_MODEL_RUNNER": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(INTERPRETER)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    *tables, last = done.stdout.splitlines()
    show("\n".join(tables))
    value, holds = json.loads(last)
    return Result(value, holds=holds)
