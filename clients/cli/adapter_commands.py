"""`composer adapters`: what the server serves, for administrators."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from clients.cli import adapter_tables, weight_commands
from clients.cli.connection import asks_server, connect_as_administrator, server_options
from clients.cli.shared_options import IfMatch, New, at_most_one, json_value
from clients.cli.tables import Json, JsonLines, print_lines, print_table, wants_lines

if TYPE_CHECKING:
    from clients.client import Client
    from clients.responses import Adapter

adapters = typer.Typer(help="Adapters of the server, for administrators, and on this machine.")
adapters.callback()(server_options)
_asks = asks_server(connect_as_administrator)
Command = Callable[..., None]
_ON_SERVER, _HERE = "On the server", "On this machine"

Alias = Annotated[str, Argument(metavar="ALIAS")]
Compositions = Annotated[bool | None, Option(help="Whether it may be part of a composition.")]
Negative = Annotated[bool | None, Option(help="Whether it may have a negative weight.")]
Keys = Annotated[
    list[str] | None,
    Option(
        metavar="KEY", help="An API key that may use it, or 'sha256:' and its hash. Repeatable."
    ),
]
AnyKey = Annotated[bool, Option("--any-key", help="Everybody may use it.")]
Examples = Annotated[
    Path | None, Option(metavar="FILE", help="Prompts that it should answer, one a line.")
]
Description = Annotated[str | None, Option(metavar="TEXT", help="What it is for, in a few words.")]


def _action(name: str) -> Callable[[Command], Command]:
    return adapters.command(name, rich_help_panel=_ON_SERVER)


@_action("list")
@_asks
def list_adapters(client: Client, json: JsonLines = None) -> None:
    """List all adapters."""
    served = client.list_adapters()
    if not wants_lines(json):
        adapter_tables.print_adapters(served)
        return
    print_lines(served.data)
    if served.retiring:
        retiring = ", ".join(served.retiring)
        print(f"composer: still in use by requests in flight: {retiring}", file=sys.stderr)


@_action("show")
@_asks
def show(client: Client, alias: Alias, json: Json = False) -> None:
    """Show one adapter: its files, its policy, where it comes from."""
    entry = client.get_adapter(alias)
    if json:
        print_lines([entry])
    else:
        adapter_tables.print_adapter(entry)


@_action("publish")
@_asks
def publish(
    client: Client,
    alias: Alias,
    source: Annotated[
        str | None,
        Option(help="A folder or archive below the server's root, hf://ORG/NAME, or a URL."),
    ] = None,
    folder: Annotated[
        Path | None, Option(metavar="PATH", help="A folder here, to be sent.")
    ] = None,
    archive: Annotated[Path | None, Option(metavar="FILE", help="A .zip or .tar.gz here.")] = None,
    merge: Annotated[
        str | None, Option(metavar="JSON", help="Merge adapters of the server.")
    ] = None,
    extract: Annotated[
        str | None, Option(metavar="JSON", help="From a full fine-tune below the server's root.")
    ] = None,
    patch: Annotated[
        str | None, Option(metavar="JSON", help="From an adapter of an earlier base model.")
    ] = None,
    compositions: Compositions = None,
    negative: Negative = None,
    key: Keys = None,
    any_key: AnyKey = False,
    examples: Examples = None,
    description: Description = None,
    if_match: IfMatch = None,
    new: New = False,
    json: Json = False,
) -> None:
    """Publish an adapter, or replace one.

    Options of the policy change what they name and keep the rest.
    """
    at_most_one({"--if-match": if_match, "--new": new})
    contents = {"--source": source, "--folder": folder, "--archive": archive}
    contents |= {"--merge": merge, "--extract": extract, "--patch": patch}
    at_most_one(contents)
    if all(content is None for content in contents.values()):
        raise typer.BadParameter(f"what to publish is missing: give one of {', '.join(contents)}")
    specs: dict[str, Any] = {
        name: json_value(f"--{name}", text, dict)
        for name, text in (("merge", merge), ("extract", extract), ("patch", patch))
    }
    policy = None
    if changes := _policy_changes(compositions, negative, key, any_key):
        if archive is not None:
            raise typer.BadParameter(
                "takes no policy; unpack it and give --folder", param_hint="--archive"
            )
        present, number = _last_policy(client, alias)
        policy = present | changes
        if if_match is None and not new:
            if_match = number  # or another client's change of the policy could be undone here
    entry = client.put_adapter(
        alias,
        source=source,
        files=folder,
        archive=archive,
        **specs,
        policy=policy,
        examples=_lines(examples),
        description=description,
        if_match=if_match,
        if_none_match=new,
    )
    _print_change(entry, json)


@_action("rollback")
@_asks
def rollback(
    client: Client,
    alias: Alias,
    to: Annotated[
        int | None, Option(metavar="N", help="The version. Default: the last with another content.")
    ] = None,
    if_match: IfMatch = None,
    json: Json = False,
) -> None:
    """Go back to an earlier version.

    Without --to, to the content before the present one: a second rollback undoes the first.
    """
    _print_change(client.rollback_adapter(alias, to=to, if_match=if_match), json)


@_action("delete")
@_asks
def delete(client: Client, alias: Alias, if_match: IfMatch = None, json: Json = False) -> None:
    """Stop serving an adapter; its history stays."""
    _print_change(client.delete_adapter(alias, if_match=if_match), json)


@_action("history")
@_asks
def history(client: Client, alias: Alias, json: JsonLines = None) -> None:
    """List every version of an alias."""
    versions = client.adapter_history(alias)
    if wants_lines(json):
        print_lines(versions)
    else:
        adapter_tables.print_versions(versions)


@_action("policy")
@_asks
def policy(
    client: Client,
    alias: Alias,
    compositions: Compositions = None,
    negative: Negative = None,
    key: Keys = None,
    any_key: AnyKey = False,
    if_match: IfMatch = None,
    json: Json = False,
) -> None:
    """Show who may use an adapter and how, or change what the options name."""
    entry = client.get_adapter(alias)
    if changes := _policy_changes(compositions, negative, key, any_key):
        changed = entry.policy.model_dump(mode="json") | changes
        number = entry.number if if_match is None else if_match
        _print_change(client.set_policy(alias, changed, if_match=number), json)
    elif json:
        print_lines([entry.policy])
    else:
        print_table(adapter_tables.policy_rows(entry.policy))


@_action("profile")
@_asks
def profile(
    client: Client,
    alias: Alias,
    examples: Examples = None,
    description: Description = None,
    if_match: IfMatch = None,
    json: Json = False,
) -> None:
    """Show what routers know of an adapter, or change what the options name."""
    entry = client.get_adapter(alias)
    texts = _lines(examples)
    if texts is not None or description is not None:
        changed = client.set_profile(
            alias,
            examples=entry.profile.examples if texts is None else texts,
            description=entry.profile.description if description is None else description,
            if_match=entry.number if if_match is None else if_match,
        )
        _print_change(changed, json)
    elif json:
        print_lines([entry.profile])
    else:
        print_table(adapter_tables.profile_rows(entry.profile))


for command in weight_commands.COMMANDS:
    adapters.command(rich_help_panel=_HERE)(command)


def _lines(file: Path | None) -> list[str] | None:
    """Return the lines of a file that are not blank."""
    if file is None:
        return None
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _policy_changes(
    compositions: bool | None, negative: bool | None, keys: list[str] | None, any_key: bool
) -> dict[str, object]:
    """Return the fields of the policy that the options name."""
    at_most_one({"--key": keys or None, "--any-key": any_key})
    fields = {"compositions": compositions, "negative": negative, "keys": keys or None}
    changes: dict[str, object] = {k: value for k, value in fields.items() if value is not None}
    return changes | {"keys": None} if any_key else changes


def _last_policy(client: Client, alias: str) -> tuple[dict[str, object], int]:
    """Return the policy that a publication would keep, and the present version, 0 for none."""
    from clients import errors

    try:
        last = client.adapter_history(alias)[-1]
    except errors.NotFound:
        return {}, 0
    return last.policy.model_dump(mode="json"), last.number if last.digest is not None else 0


def _print_change(entry: Adapter, json: bool) -> None:
    if json:
        print_lines([entry])
    else:
        adapter_tables.print_change(entry)
