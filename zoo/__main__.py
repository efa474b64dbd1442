"""Command line: train the zoo, `lists` with its adapters, or some (`train NAME ...`), or measure.

Each of them ends by measuring what is stored and rewriting the table in README.md.
"""

from __future__ import annotations

import argparse
import os
import time

# Read when PyTorch is imported: threads that wait must sleep, or a busy machine makes training
# several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import zoo
from zoo import build, evaluate


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m zoo", description="Train the zoo.")
    commands = parser.add_subparsers(dest="command", metavar="lists|train|evaluate")
    some = commands.add_parser("train", help="train the named models and adapters only")
    some.add_argument("names", nargs="+", choices=[*build.NAMES, *build.LIST_NAMES], metavar="NAME")
    commands.add_parser("lists", help="train the model `lists` and its adapters")
    commands.add_parser("evaluate", help="measure what is stored and rewrite the table")
    arguments = parser.parse_args()

    start = time.perf_counter()
    build.fix_arithmetic()
    wanted = {"evaluate": [], "lists": build.LIST_NAMES, None: build.NAMES}
    build.build(arguments.names if arguments.command == "train" else wanted[arguments.command])
    text = evaluate.table(evaluate.measure())
    print(text)
    if zoo.ROOT == zoo.PROJECT / "zoo":
        evaluate.write_table(text)
    print(f"done after {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
