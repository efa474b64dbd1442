"""`python -m bench.gpu_check`: whether composing is right and cheap on this machine's device.

On CUDA in bfloat16 with CUDA graphs and async scheduling; it writes one report. On CPU it is a
rehearsal of the same steps in float32, and only prints.
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

from bench.environment import prepare

RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if a part failed or an answer was wrong; the report says which."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__)
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the report is written")
    given = parser.parse_args(arguments)
    prepare()
    import torch  # after prepare(): it reads the environment

    from bench import gpu_parts
    from bench.hardware import describe, device_name
    from bench.measure import table

    torch.set_grad_enabled(False)
    cuda = torch.cuda.is_available()
    start = time.monotonic()
    title = "GPU check" if cuda else "Rehearsal of the GPU check on CPU"
    sections = [f"# {title}", table(("what", "value"), describe())]
    failed = False
    for heading, part in gpu_parts.parts(cuda):
        text, good = _run(heading, part)
        failed |= not good
        sections.append(f"## {heading}\n\n{text}")
    minutes = (time.monotonic() - start) / 60
    sections.append(f"`python -m bench.gpu_check`, {minutes:.1f} minutes.")
    report = "\n\n".join(sections) + "\n"
    print(report, flush=True)
    output = given.output
    if output is None and cuda:
        slug = re.sub(r"[^a-z0-9]+", "-", device_name().lower()).strip("-")
        output = RESULTS / f"{datetime.date.today():%Y-%m-%d}-{slug}.md"
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(report, encoding="utf-8")
    return int(failed)


def _run(heading: str, part: Callable[[], tuple[str, bool]]) -> tuple[str, bool]:
    """A part that fails is a finding: the others still run, and the report tells."""
    print(f"{heading} ...", file=sys.stderr, flush=True)
    try:
        return part()
    except Exception as error:
        traceback.print_exc()
        reason = str(error).strip().splitlines() or [""]
        return f"**Could not run**: {type(error).__name__}: {reason[0]}", False


if __name__ == "__main__":
    sys.exit(main())
