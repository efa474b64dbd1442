"""`python -m bench.reproduce NAME`: measure, and write tables and plots into README.md."""

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
"""Reproduction with an engine of its own, for another model and other adapters."""
NAMES = (*EXAM, COMPOSITE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named reproductions; `merged` parses its own options."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["merged"]:
        return merged.main(words[1:])
    parser = argparse.ArgumentParser(prog="python -m bench.reproduce", description=__doc__)
    parser.add_argument("name", choices=[*NAMES, "merged", "all"], help="all: without merged")
    parser.add_argument(
        "--questions", type=int, help="number per task and seed; with it, the README is not written"
    )
    options = parser.parse_args(words)
    if options.questions is not None and options.questions < 1:
        parser.error("--questions must be a whole number from 1")
    prepare()
    names = NAMES if options.name == "all" else [options.name]
    # After prepare(): they import torch and vLLM.
    if exam_names := [name for name in names if name in EXAM]:
        from bench.reproduce.exam import Exam

        with Exam() as exam:
            for name in exam_names:
                module = import_module(f"bench.reproduce.{name}")
                results = module.measure(exam, options.questions or module.QUESTIONS)
                _publish(name, module.report(results), whole=options.questions is None)
    if COMPOSITE in names:
        from bench.reproduce import composite

        scores = composite.measure(options.questions or composite.QUESTIONS)
        _publish(COMPOSITE, composite.report(scores), whole=options.questions is None)
    return 0


def _publish(name: str, report: Report, *, whole: bool) -> None:
    """Print the report; write it into the README if it is a whole run."""
    print(f"{name}:\n\n{report.text}", flush=True)
    if whole:
        write(name, report)


if __name__ == "__main__":
    sys.exit(main())
