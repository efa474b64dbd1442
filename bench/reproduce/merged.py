"""`python -m bench.reproduce merged`: skills merged in weight space against decoded together.

Prints one table of task accuracies, and writes it into README.md beside this file. With options
that make it smaller it only prints.
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
    parser = argparse.ArgumentParser(
        prog="python -m bench.reproduce merged", description=__doc__ and __doc__.partition(":")[2]
    )
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="of each task and seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="from 1")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="two, manners, four")
    parser.add_argument("--no-choice", action="store_true", help="no search for parameters")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="only these merges")
    given = parser.parse_args(arguments)
    if given.examples < 1 or min(given.seeds) < 1:
        parser.error("--examples and --seeds are whole numbers from 1")
    if unknown := set(given.cases or ()) - {case.name for case in CASES}:
        names = ", ".join(case.name for case in CASES)
        parser.error(f"there is no case {', '.join(sorted(unknown))}; it is one of: {names}")
    prepare()
    from adapters.weight_space.merge import METHODS  # after prepare(): it imports torch

    methods = [m.name for m in METHODS if given.methods is None or m.name in given.methods]
    if unknown := set(given.methods or ()) - set(methods):
        names = ", ".join(method.name for method in METHODS)
        parser.error(f"there is no method {', '.join(sorted(unknown))}; it is one of: {names}")
    cases = [case for case in CASES if given.cases is None or case.name in given.cases]
    text = study(cases, methods, given.seeds, given.examples, choosing=not given.no_choice)
    print(text, flush=True)
    smaller = given.cases or given.methods or given.no_choice
    if not smaller and (given.examples, tuple(given.seeds)) == (EXAMPLES, SEEDS):
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
    """Measure these cases and methods; the table and its notes as Markdown."""
    from adapters.weight_space.merge import METHODS
    from bench.reproduce import contest, report  # after prepare(): they import torch and vLLM
    from bench.reproduce.exam import Exam

    start = time.monotonic()
    rows = contest.contestants([m for m in METHODS if m.name in methods], choosing=choosing)
    found: dict[str, dict[str, contest.Measured | None]] = {row.name: {} for row in rows}
    with Exam() as exam:
        for case in cases:
            for row in rows:
                print(f"{case.name}: {row.name}", file=sys.stderr, flush=True)
                found[row.name][case.name] = contest.measure(
                    exam, row, case, seeds, examples, TRAINING
                )
    numbers = ", ".join(map(str, seeds))
    minutes = (time.monotonic() - start) / 60
    parts = [
        report.summary(rows, cases, found),
        report.results_table(rows, cases, found),
        f"{examples} held-out exercises of each task for each seed ({numbers}); mean, ± standard "
        f"deviation over the seeds. {minutes:.0f} minutes. {report.delta_sizes()}",
        report.notes(rows, cases, found),
    ]
    return "\n\n".join(parts)
