"""`python -m bench.reproduce merged`: skills merged in weight space against decoded together.

Prints a table of task accuracies and writes it into README.md beside this file. With options that
reduce the run it only prints.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from bench.machine.environment import prepare
from bench.reproduce.cases import CASES, Case
from bench.reproduce.readme import Report, write

EXAMPLES, SEEDS, TRAINING = 60, (1, 2, 3), 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the options, run the study and print it."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.reproduce merged", description=__doc__ and __doc__.partition(":")[2]
    )
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="number per task and seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="from 1")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="two, manners, four")
    parser.add_argument("--no-choice", action="store_true", help="no search for parameters")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="only these merges")
    options = parser.parse_args(arguments)
    if options.examples < 1 or min(options.seeds) < 1:
        parser.error("--examples and --seeds must be whole numbers from 1")
    if unknown := set(options.cases or ()) - {case.name for case in CASES}:
        names = ", ".join(case.name for case in CASES)
        parser.error(f"unknown case {', '.join(sorted(unknown))}; known are: {names}")
    prepare()
    from adapters.weight_space.merge import METHODS  # after prepare(): it imports torch

    methods = [m.name for m in METHODS if options.methods is None or m.name in options.methods]
    if unknown := set(options.methods or ()) - set(methods):
        names = ", ".join(method.name for method in METHODS)
        parser.error(f"unknown method {', '.join(sorted(unknown))}; known are: {names}")
    cases = [case for case in CASES if options.cases is None or case.name in options.cases]
    text = study(cases, methods, options.seeds, options.examples, choosing=not options.no_choice)
    print(text, flush=True)
    reduced = options.cases or options.methods or options.no_choice
    if not reduced and (options.examples, tuple(options.seeds)) == (EXAMPLES, SEEDS):
        write("merged", Report(text))
    return 0


def study(
    cases: Sequence[Case],
    methods: Sequence[str],
    seeds: Sequence[int],
    examples: int,
    *,
    choosing: bool,
) -> str:
    """Measure the cases and methods; return the table and its notes as Markdown."""
    from adapters.weight_space.merge import METHODS
    from bench.reproduce import contest, report  # after prepare(): they import torch and vLLM
    from bench.reproduce.exam import Exam

    start = time.monotonic()
    rows = contest.contestants([m for m in METHODS if m.name in methods], choosing=choosing)
    results: dict[str, dict[str, contest.Measured | None]] = {row.name: {} for row in rows}
    with Exam() as exam:
        for case in cases:
            for row in rows:
                print(f"{case.name}: {row.name}", file=sys.stderr, flush=True)
                results[row.name][case.name] = contest.measure(
                    exam, row, case, seeds, examples, TRAINING
                )
    numbers = ", ".join(map(str, seeds))
    minutes = (time.monotonic() - start) / 60
    parts = [
        report.summary(rows, cases, results),
        report.results_table(rows, cases, results),
        f"{examples} held-out exercises of each task for each seed ({numbers}); mean, ± standard "
        f"deviation over the seeds. {minutes:.0f} minutes. {report.delta_sizes()}",
        report.notes(rows, cases, results),
    ]
    return "\n\n".join(parts)
