"""Create the environment and install the locked packages, unless they are installed already.

    python3 -m scripts.setup [--extra auto|cpu|cuda] [--dev] [--packages-only] [--venv .venv]

Needs only Python's standard library. `make serve` and `make test` call it. This file and
scripts/checks.py must parse on old Pythons, because they report that a Python is too old.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from scripts import checks

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run the set-up, with another Python from the PATH if this one is not supported."""
    problem = checks.python_problem(sys.version_info[:2])
    if problem:
        other = checks.other_python()
        if other is None:
            return fail(problem)
        os.execv(other, [other, "-m", "scripts.setup", *sys.argv[1:]])
    return run(parse_arguments())


def run(arguments: argparse.Namespace) -> int:
    """Install the environment; return the exit status."""
    from scripts.environment import Environment, SetupError  # syntax of Python 3.11 and newer

    extra = arguments.extra
    if extra == "auto":
        extra = "cuda" if checks.has_nvidia_gpu() else "cpu"
    locks = [f"{extra}.lock", *(["dev.lock"] if arguments.dev else [])]
    try:
        environment = Environment(ROOT, arguments.venv.absolute(), extra)
        environment.prepare(locks, project=not arguments.packages_only)
    except SetupError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        print("\nsetup: interrupted; run the same command to continue", file=sys.stderr)
        return 130
    return 0


def fail(problem: str) -> int:
    print(f"setup: {problem}", file=sys.stderr)
    return 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts.setup", description="Install the environment.")
    parser.add_argument(
        "--extra",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="engine build; auto: cuda if nvidia-smi lists a GPU, else cpu",
    )
    parser.add_argument("--dev", action="store_true", help="also install test and lint tools")
    parser.add_argument(
        "--packages-only",
        action="store_true",
        help="leave out this project, which is then found only where it is the working directory",
    )
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="environment's folder")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
