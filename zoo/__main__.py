"""`python -m zoo`: train the zoo, only `lists` with its adapters, or named models and adapters.

Every command ends by measuring all stored models and rewriting the table in README.md.
"""

from __future__ import annotations

import argparse
import os
import time

# PyTorch reads this as it is imported. Waiting threads must sleep: on a busy machine, spinning
# makes training several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import zoo
from zoo import build, evaluate


def main() -> None:
    """Parse the command line and run the command."""
    parser = argparse.ArgumentParser(prog="python -m zoo", description="Train the zoo.")
    commands = parser.add_subparsers(dest="command", metavar="lists|train|evaluate")
    named = commands.add_parser("train", help="train the named models and adapters only")
    named.add_argument(
        "names", nargs="+", choices=[*build.NAMES, *build.LIST_NAMES], metavar="NAME"
    )
    commands.add_parser("lists", help="train the model `lists` and its adapters")
    commands.add_parser("evaluate", help="measure the stored models and rewrite the table")
    arguments = parser.parse_args()

    start = time.perf_counter()
    build.fix_arithmetic()
    names = {"evaluate": [], "lists": build.LIST_NAMES, None: build.NAMES}
    build.build(arguments.names if arguments.command == "train" else names[arguments.command])
    text = evaluate.table(evaluate.measure())
    print(text)
    if zoo.ROOT == zoo.PROJECT / "zoo":
        evaluate.write_table(text)
    print(f"done after {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
