"""The command line `python -m adapters`, which is also `composer adapters`.

Exit codes: 0 done; 1 refused, with the reason and the remedy; 2 wrong command line; 4 the disk
failed; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters import commands
from adapters.errors import AdapterStoreError
from composer.errors import ComposerError

REFUSED, USAGE, FAILED, INTERRUPTED = 1, 2, 4, 130


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m adapters", description="Inspect LoRA adapters and compute new ones."
    )
    add_commands(parser.add_subparsers(required=True, metavar="COMMAND"))
    return execute(parser.parse_args(argv))


def execute(arguments: argparse.Namespace) -> int:
    """Runs what a parser with `add_commands` has read, and returns the exit code."""
    try:
        arguments.action(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has gone, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return INTERRUPTED
    except commands.UsageError as error:
        return _fail(USAGE, str(error))
    except AdapterStoreError as error:
        return _fail(FAILED, error.message)
    except ComposerError as error:
        return _fail(REFUSED, error.message)
    except OSError as error:
        return _fail(FAILED, str(error))
    return 0


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands to a parser; `execute` runs the one that was given."""
    inspect = _command(subparsers, "inspect", commands.inspect, "what an adapter is")
    inspect.add_argument("path", type=Path, metavar="PATH", help="the adapter's folder")
    inspect.add_argument("--base", type=Path, metavar="FOLDER", help="a model it must fit")

    prune = _command(subparsers, "prune", commands.prune, "make room in an adapter store")
    prune.add_argument("store", type=Path, metavar="FOLDER", help="of --adapter-store")
    prune.add_argument(
        "--keep",
        type=_positive,
        default=5,
        metavar="N",
        help="versions of each alias whose contents stay, more than 1 while servers use them: "
        "requests may still run with a replaced one; default: %(default)s",
    )

    merge = _command(subparsers, "merge", commands.merge, "one adapter from several", output=True)
    merge.add_argument("spec", nargs="?", type=Path, metavar="SPEC.json", help="the whole merge")
    merge.add_argument("--method", help="such as sum or ties; an unknown name lists them all")
    merge.add_argument(
        "--adapter",
        action="append",
        default=[],
        type=_weighted,
        metavar="PATH=WEIGHT",
        help="may be given several times; the weight is 1 if left out",
    )
    merge.add_argument(
        "--set",
        action="append",
        default=[],
        type=_assignment,
        metavar="NAME=VALUE",
        help="a parameter of the method; the value is JSON or else text",
    )
    merge.add_argument("--rank", type=int, help="of the result; the exact sum if left out")

    extract = _command(
        subparsers, "extract", commands.extract, "an adapter from a full fine-tune", output=True
    )
    extract.add_argument("--base", type=Path, required=True, metavar="FOLDER")
    extract.add_argument("--tuned", type=Path, required=True, metavar="FOLDER")
    size = extract.add_mutually_exclusive_group(required=True)
    size.add_argument("--energy", type=float, help="share of each change to keep, such as 0.95")
    size.add_argument("--rank", type=int, help="the same rank for every module")
    extract.add_argument("--max-rank", type=int, help="the bound with --energy; default: 512")
    extract.add_argument(
        "--ignore-other-changes",
        action="store_true",
        help="leave out changed norms, biases, embeddings and new tokens",
    )
    extract.add_argument("--dtype", help="float32 (default), bfloat16 or float16")
    extract.add_argument("--seed", type=int, help="of the randomized search; default: 0")
    extract.add_argument("--base-model", metavar="NAME", help="in the adapter's configuration")

    patch = _command(
        subparsers, "patch", commands.patch, "an adapter for a later base model", output=True
    )
    patch.add_argument("--adapter", type=Path, required=True, metavar="PATH")
    patch.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="the later base")
    patch.add_argument("--from", dest="earlier", type=Path, metavar="FOLDER")
    patch.add_argument("--scale", type=float, default=1.0, help="default: 1")
    patch.add_argument("--base-model", metavar="NAME", help="in the adapter's configuration")


def _command(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    action: commands.Action,
    help_: str,
    *,
    output: bool = False,
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=help_, description=help_)
    parser.set_defaults(action=action)
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    if output:
        parser.add_argument(
            "--output", type=Path, required=True, metavar="FOLDER", help="new or empty"
        )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _assignment(text: str) -> tuple[str, Any]:
    """`name=value` -> (name, value); the value is JSON, or text where it is no JSON."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _weighted(text: str) -> tuple[str, float]:
    """`path=weight` or `path` -> (path, weight)."""
    path, equals, weight = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        return path, float(weight)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{weight}' in '{text}' is no weight") from None


def _fail(code: int, message: str) -> int:
    print(f"composer: {' '.join(message.split())}", file=sys.stderr)
    return code
