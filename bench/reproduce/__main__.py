"""`python -m bench.reproduce NAME`: measure, and put tables and plots where README.md has them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from bench.machine.environment import prepare
from bench.reproduce import merged
from bench.reproduce.readme import Report, write

EXAM = ("proxy_tuning", "emulated_fine_tuning", "dexperts", "value_augmented")
COMPOSITE = "composite"
"""It has an engine of its own: for another model and other adapters."""
NAMES = (*EXAM, COMPOSITE)


def main(arguments: Sequence[str] | None = None) -> int:
    """`merged` has options of its own."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["merged"]:
        return merged.main(given[1:])
    parser = argparse.ArgumentParser(prog="python -m bench.reproduce", description=__doc__)
    parser.add_argument("name", choices=[*NAMES, "merged", "all"], help="all: without merged")
    parser.add_argument(
        "--questions", type=int, help="of each task and seed; then the README stays as it is"
    )
    options = parser.parse_args(given)
    if options.questions is not None and options.questions < 1:
        parser.error("--questions is a whole number from 1")
    prepare()
    names = NAMES if options.name == "all" else [options.name]
    # After prepare(): they import torch and vLLM.
    if own := [name for name in names if name in EXAM]:
        from bench.reproduce.exam import Exam

        with Exam() as exam:
            for name in own:
                module = import_module(f"bench.reproduce.{name}")
                found = module.measure(exam, options.questions or module.QUESTIONS)
                _publish(name, module.report(found), whole=options.questions is None)
    if COMPOSITE in names:
        from bench.reproduce import composite

        scores = composite.measure(options.questions or composite.QUESTIONS)
        _publish(COMPOSITE, composite.report(scores), whole=options.questions is None)
    return 0


def _publish(name: str, report: Report, *, whole: bool) -> None:
    """Print it; what was measured as a whole goes into the README."""
    print(f"{name}:\n\n{report.text}", flush=True)
    if whole:
        write(name, report)


if __name__ == "__main__":
    sys.exit(main())
