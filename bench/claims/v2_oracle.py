"""The claim `oracle` on vLLM's V2 model runner, with Triton's interpreter where there is no GPU."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.claim import Result
from bench.machine.interpreter import FIRST, ROOT, with_interpreter
from bench.measure import show

PROGRAM = f"""
{FIRST}
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
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=with_interpreter(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    *tables, last = done.stdout.splitlines()
    show("\n".join(tables))
    value, holds = json.loads(last)
    return Result(value, holds=holds)
