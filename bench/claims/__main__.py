"""`python -m bench.claims NAME`: measure a claim. Exit status 0 ok, 1 short, 2 no such claim."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.claims import CLAIMS
from bench.environment import prepare

_USAGE = "usage: python -m bench.claims NAME | all | --list"


def main(arguments: Sequence[str] | None = None) -> int:
    """The last line on stdout is `NAME value bound ok|short`; tables come before it."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--list"]:
        print("\n".join(claim.name for claim in CLAIMS))
        return 0
    if given == ["all"]:
        return _measure_all()
    claims = [claim for claim in CLAIMS if [claim.name] == given]
    if not claims:
        names = "\n  ".join(claim.name for claim in CLAIMS)
        print(f"no claim {' '.join(given)!r}; {_USAGE}\n  {names}", file=sys.stderr)
        return 2
    [claim] = claims
    prepare()
    result = claim.measure()
    print(claim.verdict(result), flush=True)
    return 0 if claim.is_met(result) else 1


def _measure_all() -> int:
    """Each in a process of its own; the last lines of all of them at the end."""
    verdicts, status = [], 0
    for claim in CLAIMS:
        print(f"== {claim.name}: {claim.what}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "bench.claims", claim.name],
            cwd=Path(__file__).resolve().parent.parent.parent,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        print(done.stdout, flush=True)
        status = max(status, min(done.returncode, 1) if done.returncode >= 0 else 1)
        lines = done.stdout.splitlines()
        ended = lines and lines[-1].startswith(f"{claim.name} ")
        verdicts.append(lines[-1] if ended else f"{claim.name} nan {claim.bound:g} short")
    print("\n".join(verdicts), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
