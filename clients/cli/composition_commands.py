"""`composer compositions`: what the server keeps under a name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from clients.cli.connection import asks_server, connect, server_options
from clients.cli.shared_options import (
    Assignments,
    CompositionJson,
    Formula,
    IfMatch,
    New,
    RecipeName,
    at_most_one,
    composition_of,
)
from clients.cli.tables import JsonLines, print_lines, print_table, wants_lines

if TYPE_CHECKING:
    from clients.client import Client
    from clients.responses import CompositionChange

compositions = typer.Typer(help="Compositions that the server keeps under a name.")
compositions.callback()(server_options)

Name = Annotated[str, Argument(metavar="NAME")]
To = Annotated[
    int | None, Option(metavar="N", help="The version. Default: the last with another content.")
]


@compositions.command("list")
@asks_server(connect)
def list_compositions(client: Client, json: JsonLines = None) -> None:
    """List all stored compositions."""
    stored = client.list_compositions()
    if wants_lines(json):
        print_lines(stored)
    else:
        print_table([(entry.name, str(entry.version), content_of(entry)) for entry in stored])


@compositions.command()
@asks_server(connect)
def show(client: Client, name: Name) -> None:
    """Show one, with its plan."""
    print(client.get_composition(name).model_dump_json(indent=2, exclude_unset=True))


@compositions.command()
@asks_server(connect)
def put(
    client: Client,
    name: Name,
    formula: Formula = None,
    recipe: RecipeName = None,
    composition: CompositionJson = None,
    set_: Assignments = None,
    if_match: IfMatch = None,
    new: New = False,
) -> None:
    """Store a composition, or replace one."""
    at_most_one({"--if-match": if_match, "--new": new})
    content = composition_of(formula, recipe, composition, set_)
    if content is None:
        raise typer.BadParameter(
            "what to store is missing: give --formula, --recipe or --composition"
        )
    stored = client.put_composition(name, content, if_match=if_match, if_none_match=new)
    print(f"{stored.name}  version {stored.version}")


@compositions.command()
@asks_server(connect)
def delete(client: Client, name: Name, if_match: IfMatch = None) -> None:
    """Forget one; its history stays."""
    client.delete_composition(name, if_match=if_match)


@compositions.command()
@asks_server(connect)
def rollback(client: Client, name: Name, to: To = None, if_match: IfMatch = None) -> None:
    """Go back to an earlier version.

    Without --to, to the composition before the present one: a second rollback undoes the first.
    """
    stored = client.rollback_composition(name, to=to, if_match=if_match)
    print(f"{stored.name}  version {stored.version}  {content_of(stored)}")


@compositions.command()
@asks_server(connect)
def history(client: Client, name: Name, json: JsonLines = None) -> None:
    """List every version of a name."""
    versions = client.composition_history(name)
    if wants_lines(json):
        print_lines(versions)
        return
    rows = [("VERSION", "ACTION", "TIME", "OWNER", "COMPOSITION")]
    for entry in versions:
        row = (str(entry.version), entry.action, entry.time, entry.owner or "-", content_of(entry))
        rows.append(row)
    print_table(rows)


def content_of(entry: CompositionChange) -> str:
    """Return what a name stands for as a line of text."""
    if entry.composition is None:
        return "(private)" if entry.private else "-"
    shown = entry.composition
    return shown if isinstance(shown, str) else json.dumps(shown)
