"""The commands of `python -m experts`: print the base model's folder, train, measure."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read as torch is imported

import experts
from experts.base_model import base_model
from experts.cache import ChecksumMismatch, PackageUnavailable


def main() -> int:
    """Parse the command line and run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experts", description="Real-text adapters.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("model", help="print the folder of the base model, made if necessary")
    train = commands.add_parser("train", help="train all adapters or the named ones; examples too")
    train.add_argument("names", nargs="*", metavar="NAME", default=[])
    commands.add_parser("evaluate", help="measure the stored adapters and rewrite the table")
    arguments = parser.parse_args()
    try:
        match arguments.command:
            case "model":
                print(base_model())
            case "train":
                unknown = [name for name in arguments.names if name not in experts.NAMES]
                if unknown:
                    parser.error(f"{unknown[0]!r} is not one of {', '.join(experts.NAMES)}")
                _train(arguments.names or experts.NAMES)
            case "evaluate":
                _evaluate()
    except (PackageUnavailable, ChecksumMismatch) as error:
        print(f"experts: {error}", file=sys.stderr)
        return 1
    return 0


def _train(names: Sequence[str]) -> None:
    from experts.texts.corpus import example_prompts
    from experts.train import train_all

    for name in names:
        lines = "".join(f"{prompt}\n" for prompt in example_prompts(name))
        experts.EXAMPLES[name].write_text(lines, encoding="utf-8")
    train_all(names)


def _evaluate() -> None:
    from experts import evaluate

    text = evaluate.table(evaluate.measure())
    print(text)
    evaluate.write_table(text)


if __name__ == "__main__":
    sys.exit(main())
