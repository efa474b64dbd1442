"""The words after `composer router`: gates, trained on this machine without a server."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from clients.cli.arguments import CommandLineError

REFUSED, USAGE = 1, 2
MOST_EXAMPLES, LONGEST = 400, 1024


def add_router(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `router`."""
    router = commands.add_parser("router", help="routers that are trained: gates")
    actions = router.add_subparsers(required=True, metavar="ACTION")
    train = actions.add_parser(
        "train",
        help="a gate: which adapter computes the next token",
        description="Fit a linear classifier to the last hidden states of a base model. Each line "
        "of an examples file is a text, or JSON with 'prompt' and 'answer', or with 'messages'.",
    )
    train.add_argument(
        "--base", type=Path, required=True, metavar="PATH", help="the model's folder"
    )
    for name, value, help_ in (
        ("--adapters", "NAME=PATH", "the adapters' folders, by the names that the server has"),
        ("--examples", "NAME=FILE", "texts of each; 'base' for what the model does without one"),
    ):
        train.add_argument(
            name, nargs="+", type=_named, required=True, action="extend", metavar=value, help=help_
        )
    train.add_argument("--output", type=Path, required=True, metavar="FILE", help="safetensors")
    train.add_argument("--most", type=int, default=MOST_EXAMPLES, help="examples of each adapter")
    train.add_argument("--longest", type=int, default=LONGEST, help="tokens of an example")
    train.set_defaults(local=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and reports its errors; the exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        from adapters.inspection.inspect import inspect
        from composer.errors import ComposerError
        from composer.gate_training.command import train
    except ImportError as error:
        raise CommandLineError(
            f"router train needs more than the client ({error}): "
            "pip install 'composer-serve[cpu]', or [cuda]"
        ) from None
    adapters = _distinct(arguments.adapters, "--adapters")
    examples = _distinct(arguments.examples, "--examples")
    try:
        train(
            arguments.base,
            adapters,
            {name: inspect(path, name).digest for name, path in adapters.items()},
            examples,
            arguments.output,
            most=arguments.most,
            longest=arguments.longest,
        )
    except ComposerError as error:
        print(f"composer: {' '.join(error.message.split())}", file=sys.stderr)
        return REFUSED
    return 0


def _named(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=PATH")
    return name, Path(path)


def _distinct(given: Sequence[tuple[str, Path]], option: str) -> dict[str, Path]:
    found = dict(given)
    if len(found) != len(given):
        raise CommandLineError(f"{option} gives a name twice")
    return found
