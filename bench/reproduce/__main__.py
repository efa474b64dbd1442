"""`python -m bench.reproduce NAME`: measure, and put tables and plots where README.md has them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from bench.environment import prepare
from bench.reproduce import merged
from bench.reproduce.readme import write

NAMES = ("proxy_tuning", "emulated_fine_tuning", "dexperts", "value_augmented")


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
    from bench.reproduce.exam import Exam  # after prepare(): it imports torch and vLLM

    with Exam() as exam:
        for name in NAMES if options.name == "all" else [options.name]:
            module = import_module(f"bench.reproduce.{name}")
            report = module.report(module.measure(exam, options.questions or module.QUESTIONS))
            print(f"{name}:\n\n{report.text}", flush=True)
            if options.questions is None:
                write(name, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
