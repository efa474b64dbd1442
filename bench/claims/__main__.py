"""`python -m bench.claims NAME...`: measure claims.

Exit status: 0 if every claim holds, 1 if one does not, 2 for an unknown name.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import results
from bench.claim import CannotMeasure, Claim
from bench.claims import CLAIMS
from bench.machine.environment import prepare

PROJECT = Path(__file__).resolve().parent.parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of every named claim, then one line `NAME value bound ok|short` each."""
    parser = argparse.ArgumentParser(prog="python -m bench.claims", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a claim, or `all`")
    parser.add_argument("--list", action="store_true", help="print the names of the claims")
    parser.add_argument(
        "--record",
        action="store_true",
        help="append the values to bench/results/claims.jsonl and write bench/RESULTS.md",
    )
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(claim.name for claim in CLAIMS))
        return 0
    names = [claim.name for claim in CLAIMS] if options.names == ["all"] else options.names
    claims = {claim.name: claim for claim in CLAIMS}
    unknown = [name for name in names if name not in claims]
    if unknown or not names:
        problem = f"unknown claims: {', '.join(unknown)}" if unknown else "no claim named"
        print("\n  ".join([f"{problem}; the claims are", *claims]), file=sys.stderr)
        return 2
    if len(names) == 1:
        return _measure(claims[names[0]], record=options.record)
    return _measure_each([claims[name] for name in names], record=options.record)


def _measure(claim: Claim, *, record: bool) -> int:
    """Measure one claim in this process."""
    prepare()
    try:
        result = claim.measure()
    except CannotMeasure as error:
        print(f"{claim.name}: {error}", file=sys.stderr)
        return 1
    if record:
        results.record(claim, result)
    print(claim.verdict(result), flush=True)
    return 0 if claim.is_met(result) else 1


def _measure_each(claims: Sequence[Claim], *, record: bool) -> int:
    """Measure each claim in a process of its own; print all verdicts at the end."""
    verdicts, status = [], 0
    for claim in claims:
        print(f"== {claim.name}: {claim.what}", flush=True)
        command = [sys.executable, "-m", "bench.claims", claim.name]
        done = subprocess.run(
            [*command, "--record"] if record else command,
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        lines = done.stdout.splitlines()
        if lines and lines[-1].startswith(f"{claim.name} "):
            verdicts.append(lines.pop())
        else:
            verdicts.append(f"{claim.name} nan {claim.bound:g} short")
        print("\n".join(lines), flush=True)
        status = 1 if done.returncode != 0 else status
    print("\n".join(verdicts), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
