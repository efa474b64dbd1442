"""`python -m bench.gpu`: check that composing is correct and cheap on this machine's device.

On CUDA the check runs in bfloat16 with CUDA graphs and async scheduling, and writes a report. On
CPU it rehearses the same steps in float32 and only prints the report.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.machine.environment import prepare

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 if a check failed or could not run; the report says which one."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report to FILE")
    options = parser.parse_args(arguments)
    prepare()
    import torch  # after prepare(): torch reads the environment as it is imported

    from bench.gpu import checks
    from bench.machine.hardware import describe, device_name
    from bench.measure import table

    torch.set_grad_enabled(False)
    cuda = torch.cuda.is_available()
    start = time.monotonic()
    title = "GPU check" if cuda else "Rehearsal of the GPU check on CPU"
    sections = [f"# {title}", table(("what", "value"), describe())]
    failed = False
    for heading, check in checks.checks(cuda):
        text, passed = _run(heading, check)
        failed |= not passed
        sections.append(f"## {heading}\n\n{text}")
    minutes = (time.monotonic() - start) / 60
    sections.append(f"`python -m bench.gpu`, {minutes:.1f} minutes.")
    report = "\n\n".join(sections) + "\n"
    print(report, flush=True)
    output = options.output
    if output is None and cuda:
        slug = re.sub(r"[^a-z0-9]+", "-", device_name().lower()).strip("-")
        output = RESULTS / f"{datetime.date.today():%Y-%m-%d}-{slug}.md"
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(report, encoding="utf-8")
    return int(failed)


def _run(heading: str, check: Callable[[], tuple[str, bool]]) -> tuple[str, bool]:
    """Run one check; report an exception as its result, so that the other checks still run."""
    print(f"{heading} ...", file=sys.stderr, flush=True)
    try:
        return check()
    except Exception as error:
        traceback.print_exc()
        reason = str(error).strip().splitlines() or [""]
        return f"**Could not run**: {type(error).__name__}: {reason[0]}", False


if __name__ == "__main__":
    sys.exit(main())
