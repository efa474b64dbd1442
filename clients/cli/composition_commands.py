"""What `composer compositions` does; each takes the client and the parsed arguments."""

from __future__ import annotations

import argparse
import json

from clients.cli.arguments import CommandLineError, add_composition, composition_of
from clients.cli.tables import print_table
from clients.client import Client
from clients.responses import CompositionChange


def add_compositions(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `compositions` to the parser."""
    stored = commands.add_parser("compositions", help="what the server keeps under a name")
    actions = stored.add_subparsers(required=True, metavar="ACTION")
    for name, run, help_ in (
        ("list", list_all, "all stored compositions"),
        ("show", show, "one of them, with its plan"),
        ("put", put, "store one, or replace one"),
        ("delete", delete, "forget one; its history stays"),
        ("rollback", rollback, "back to an earlier version"),
        ("history", history, "every version of a name"),
    ):
        action = actions.add_parser(name, help=help_, description=help_)
        action.set_defaults(run=run)
        if name != "list":
            action.add_argument("name", metavar="NAME")
        if name in ("put", "delete", "rollback"):
            condition = action.add_mutually_exclusive_group()
            condition.add_argument(
                "--if-match", type=int, metavar="N", help="only if it is at version N"
            )
        if name == "put":
            condition.add_argument("--new", action="store_true", help="only if there is none yet")
            add_composition(action)
        if name == "rollback":
            action.add_argument("--to", type=int, metavar="N", help="default: the one before")


def list_all(client: Client, arguments: argparse.Namespace) -> None:
    stored = client.list_compositions()
    print_table([(entry.name, str(entry.version), _content(entry)) for entry in stored])


def show(client: Client, arguments: argparse.Namespace) -> None:
    print(client.get_composition(arguments.name).model_dump_json(indent=2, exclude_unset=True))


def put(client: Client, arguments: argparse.Namespace) -> None:
    composition = composition_of(arguments)
    if composition is None:
        raise CommandLineError("what to store is missing: --formula, --recipe or --composition")
    stored = client.put_composition(
        arguments.name, composition, if_match=arguments.if_match, if_none_match=arguments.new
    )
    print(f"{stored.name}  version {stored.version}")


def delete(client: Client, arguments: argparse.Namespace) -> None:
    client.delete_composition(arguments.name, if_match=arguments.if_match)


def rollback(client: Client, arguments: argparse.Namespace) -> None:
    stored = client.rollback_composition(
        arguments.name, to=arguments.to, if_match=arguments.if_match
    )
    print(f"{stored.name}  version {stored.version}  {_content(stored)}")


def history(client: Client, arguments: argparse.Namespace) -> None:
    rows = [("VERSION", "ACTION", "TIME", "OWNER", "COMPOSITION")]
    for entry in client.composition_history(arguments.name):
        row = (str(entry.version), entry.action, entry.time, entry.owner or "-", _content(entry))
        rows.append(row)
    print_table(rows)


def _content(entry: CompositionChange) -> str:
    if entry.composition is None:
        return "(private)" if entry.private else "-"
    shown = entry.composition
    return shown if isinstance(shown, str) else json.dumps(shown)
