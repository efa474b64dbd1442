"""Triton's interpreter in the place of compiled kernels: the V2 model runner on a CPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench.machine.environment import original

ROOT = Path(__file__).resolve().parent.parent.parent
INTERPRETER = Path(sys.prefix) / "interpreter"

FIRST = "import tests.support.triton_on_cpu\n"
"""What a program must begin with."""


def with_interpreter() -> dict[str, str]:
    """Return the environment of a program that runs in `ROOT` with the V2 model runner.

    Raises:
        RuntimeError: Triton is not installed.
    """
    if not INTERPRETER.is_dir():
        raise RuntimeError(f"{INTERPRETER} is missing; `make {INTERPRETER}` installs Triton there")
    return original() | {
        "VLLM_USE_V2_MODEL_RUNNER": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(INTERPRETER)]),
    }
