"""The words after `composer adapters`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from clients.cli import adapter_commands
from clients.cli.arguments import CommandLineError
from clients.client import Client
from clients.client_settings import ADMIN_KEY_VARIABLE, API_KEY_VARIABLE, Timeouts

_LOCAL = ("inspect", "merge", "extract", "unpack", "patch", "prune")


def add_adapters(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], words: Sequence[str]
) -> None:
    """Add `adapters`; `words` is the whole command line.

    Raises:
        UsageError: a local command is asked for, and what it needs is not installed.
    """
    adapters = commands.add_parser(
        "adapters",
        help="what the server serves, for administrators; adapters on this disk",
        description="list to profile ask a server; the others work on this machine's disk.",
    )
    actions = adapters.add_subparsers(required=True, metavar="ACTION")
    _add_remote(actions)
    if "adapters" in words:
        _add_local(actions, words[words.index("adapters") + 1 :])


def admin_client(arguments: argparse.Namespace) -> Client:
    """The client for a command that `_add_remote` added.

    Raises:
        UsageError: there is no key, or a wrong timeout.
    """
    environment = os.environ.get(ADMIN_KEY_VARIABLE) or os.environ.get(API_KEY_VARIABLE)
    key = arguments.admin_key or environment
    if not arguments.timeout > 0:
        raise CommandLineError(
            f"--timeout is {arguments.timeout:g}; give a number of seconds above 0"
        )
    if not key:
        raise CommandLineError(
            "this command needs a key that may publish: give --admin-key or set "
            f"{ADMIN_KEY_VARIABLE} or {API_KEY_VARIABLE}"
        )
    return Client(arguments.base_url, api_key=key, timeouts=Timeouts(read_s=arguments.timeout))


def _add_remote(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--admin-key", help=f"default: ${ADMIN_KEY_VARIABLE}, else ${API_KEY_VARIABLE}"
    )
    shared.add_argument("--json", action="store_true", help="print the server's whole answer")
    shared.add_argument(
        "--timeout",
        type=float,
        default=Timeouts().read_s,
        metavar="SECONDS",
        help="how long to wait for the answer; default: %(default)g",
    )
    for name, run, help_ in (
        ("list", adapter_commands.list_adapters, "all adapters"),
        ("show", adapter_commands.show, "one adapter: files, policy, where it comes from"),
        ("publish", adapter_commands.publish, "add an adapter, or replace one"),
        ("rollback", adapter_commands.rollback, "back to an earlier version"),
        ("delete", adapter_commands.delete, "stop serving an adapter; its history stays"),
        ("history", adapter_commands.history, "every version of an alias"),
        ("policy", adapter_commands.policy, "show or change who may use an adapter, and how"),
        ("profile", adapter_commands.profile, "show or change what routers know of an adapter"),
    ):
        action = actions.add_parser(name, help=help_, description=help_, parents=[shared])
        action.set_defaults(run=run)
        if name != "list":
            action.add_argument("alias", metavar="ALIAS")
        if name in ("publish", "rollback", "delete", "policy", "profile"):
            condition = action.add_mutually_exclusive_group()
            condition.add_argument(
                "--if-match", type=int, metavar="N", help="only if the alias is at version N"
            )
        if name == "publish":
            condition.add_argument("--new", action="store_true", help="only if there is none yet")
            _add_content(action)
        if name == "rollback":
            action.add_argument("--to", type=int, metavar="N", help="default: the one before")
        if name in ("publish", "policy"):
            _add_policy(action)
        if name in ("publish", "profile"):
            _add_profile(action)


def _add_content(action: argparse.ArgumentParser) -> None:
    content = action.add_mutually_exclusive_group(required=True)
    content.add_argument(
        "--source", help="a folder or archive below the server's root, hf://ORG/NAME, or a URL"
    )
    content.add_argument("--folder", type=Path, metavar="PATH", help="a folder here, to be sent")
    content.add_argument("--archive", type=Path, metavar="FILE", help="a .zip or .tar.gz here")
    for name, help_ in (
        ("merge", "of adapters of the server"),
        ("extract", "from a full fine-tune below the server's root"),
        ("patch", "of an adapter of an earlier base model"),
    ):
        content.add_argument(f"--{name}", type=_json_object, metavar="JSON", help=help_)


def _add_policy(action: argparse.ArgumentParser) -> None:
    switch = argparse.BooleanOptionalAction
    action.add_argument("--compositions", action=switch, help="it may be part of a composition")
    action.add_argument("--negative", action=switch, help="it may have a negative weight")
    keys = action.add_mutually_exclusive_group()
    keys.add_argument(
        "--key",
        action="append",
        metavar="KEY",
        help="an API key that may use it, or 'sha256:' and its hash; may be given several times, "
        "and replaces those before",
    )
    keys.add_argument("--any-key", action="store_true", help="everybody may use it")


def _add_profile(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--examples", type=Path, metavar="FILE", help="prompts that it is to answer, one a line"
    )
    action.add_argument("--description", metavar="TEXT", help="what it is for, in a few words")


def _add_local(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], words: Sequence[str]
) -> None:
    """Add the commands of adapters/cli.py, unless `words` begins with another one."""
    remote = frozenset(actions.choices)
    if not remote.isdisjoint(words[:1]):
        return  # spares a good part of a second
    try:
        from adapters import cli
    except ImportError as error:
        if words[:1] and words[0] in _LOCAL:
            raise CommandLineError(
                f"adapters {words[0]} needs more than the client ({error}): "
                "pip install 'composer-serve[cpu]', or [cuda]"
            ) from None
        return
    cli.add_commands(actions)
    for name in actions.choices.keys() - remote:
        actions.choices[name].set_defaults(local=cli.execute)


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"it is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("it must be a JSON object")
    return value
