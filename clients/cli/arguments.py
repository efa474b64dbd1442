"""From words of the command line to a composition."""

from __future__ import annotations

import argparse
import json

from clients.calls import Composition


class CommandLineError(Exception):
    """The options contradict each other; the message says which."""


def assignment(text: str) -> tuple[str, object]:
    """`name=value` -> (name, value); the value is JSON, or text where it is no JSON."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def add_composition(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--formula", help="such as 'chat + 0.8*(polite - rude)'")
    group.add_argument("--recipe", help="such as proxy_tuning; its arguments with --set")
    group.add_argument("--composition", metavar="JSON", help="the whole composition as JSON")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=assignment,
        metavar="NAME=VALUE",
        help="an argument of the recipe; the value is JSON or else text",
    )


def composition_of(arguments: argparse.Namespace) -> Composition | None:
    """What --formula, --recipe and --set, or --composition say; None without any of them.

    Raises:
        UsageError: --set without --recipe, an argument twice, or a composition that is no JSON.
    """
    given: list[tuple[str, object]] = arguments.set
    if arguments.recipe is not None:
        fields = {"recipe": arguments.recipe, **dict(given)}
        if len(fields) != len(given) + 1:
            raise CommandLineError("--set gives an argument of the recipe twice")
        return fields
    if given:
        raise CommandLineError("--set belongs to --recipe, which is missing")
    if arguments.composition is None:
        formula: str | None = arguments.formula
        return formula
    try:
        value = json.loads(arguments.composition)
    except json.JSONDecodeError as error:
        raise CommandLineError(f"--composition is no JSON: {error}") from None
    if not isinstance(value, str | dict):
        raise CommandLineError("--composition must be a JSON object, or a string with a formula")
    return value
