"""What `composer adapters` does on a server; each takes the client and the parsed arguments."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from clients import errors
from clients.cli.arguments import CommandLineError
from clients.cli.tables import print_table
from clients.client import Client
from clients.responses import Adapter, AdapterPolicy, AdapterProfile, Wire

_SHOWN = 12
"""Digits of a digest in tables; the engine's names have as many."""


def list_adapters(client: Client, arguments: argparse.Namespace) -> None:
    found = client.list_adapters()
    if _printed(found, arguments):
        return
    rows = [("ALIAS", "VERSION", "DIGEST", "RANK", "SIZE", "POLICY", "SERVED")]
    for entry in found.data:
        report = entry.adapter
        rank, size = (str(report.rank), _size(report.size_bytes)) if report else ("-", "-")
        digest = _digest(entry.digest)
        rules = _rules(entry.policy)
        rows.append((entry.alias, str(entry.number), digest, rank, size, rules, _served(entry)))
    if found.data:
        print_table(rows)
    if found.retiring:
        print(f"\nstill in use by requests in flight: {', '.join(found.retiring)}")


def show(client: Client, arguments: argparse.Namespace) -> None:
    entry = client.get_adapter(arguments.alias)
    if _printed(entry, arguments):
        return
    rows = [
        ("alias", entry.alias),
        ("version", f"{entry.number}, {entry.action} by {entry.actor} at {entry.time}"),
        ("digest", entry.digest or "-"),
        ("origin", _line(entry.origin)),
        ("served", _served(entry)),
        *_policy_rows(entry.policy),
        *_profile_rows(entry.profile),
    ]
    if (report := entry.adapter) is not None:
        rows += [
            ("base model", report.base_model or "not named"),
            ("rank", str(report.rank)),
            ("scaling", ", ".join(f"{scale:g}" for scale in report.scaling)),
            ("parameters", f"{report.parameters}, {', '.join(report.dtypes)}"),
            ("size", _size(report.size_bytes)),
            ("modules", _kinds(report.modules)),
            *(("warning", warning) for warning in report.warnings),
        ]
    print_table(rows)


def publish(client: Client, arguments: argparse.Namespace) -> None:
    """Options of the policy change the policy that the alias has, and leave the rest of it."""
    policy, if_match = None, arguments.if_match
    if changes := _changes(arguments):
        if arguments.archive is not None:
            raise CommandLineError("an archive takes no policy; unpack it and give --folder")
        present, number = _last_policy(client, arguments.alias)
        policy = present | changes
        if if_match is None and not arguments.new:
            if_match = number  # or somebody else's change of the policy could be undone here
    entry = client.put_adapter(
        arguments.alias,
        source=arguments.source,
        files=arguments.folder,
        archive=arguments.archive,
        merge=arguments.merge,
        extract=arguments.extract,
        patch=arguments.patch,
        policy=policy,
        examples=_examples(arguments.examples),
        description=arguments.description,
        if_match=if_match,
        if_none_match=arguments.new,
    )
    _changed(entry, arguments)


def rollback(client: Client, arguments: argparse.Namespace) -> None:
    alias, to, if_match = arguments.alias, arguments.to, arguments.if_match
    _changed(client.rollback_adapter(alias, to=to, if_match=if_match), arguments)


def delete(client: Client, arguments: argparse.Namespace) -> None:
    _changed(client.delete_adapter(arguments.alias, if_match=arguments.if_match), arguments)


def history(client: Client, arguments: argparse.Namespace) -> None:
    versions = client.adapter_history(arguments.alias)
    if arguments.json:
        for version in versions:
            print(version.model_dump_json(exclude_unset=True))
        return
    rows = [("VERSION", "ACTION", "DIGEST", "TIME", "ACTOR", "POLICY", "ORIGIN")]
    for version in versions:
        number, digest, origin = str(version.number), _digest(version.digest), _line(version.origin)
        rules = _rules(version.policy)
        row = (number, version.action, digest, version.time, version.actor, rules, origin)
        rows.append(row)
    print_table(rows)


def policy(client: Client, arguments: argparse.Namespace) -> None:
    """Show the policy, or change what the options name and leave the rest."""
    entry = client.get_adapter(arguments.alias)
    if changes := _changes(arguments):
        if_match = entry.number if arguments.if_match is None else arguments.if_match
        changed = entry.policy.model_dump(mode="json") | changes
        _changed(client.set_policy(arguments.alias, changed, if_match=if_match), arguments)
    elif not _printed(entry.policy, arguments):
        print_table(_policy_rows(entry.policy))


def profile(client: Client, arguments: argparse.Namespace) -> None:
    """Show the profile, or change what the options name and leave the rest."""
    entry = client.get_adapter(arguments.alias)
    examples, description = _examples(arguments.examples), arguments.description
    if examples is not None or description is not None:
        present = entry.profile
        changed = client.set_profile(
            arguments.alias,
            examples=present.examples if examples is None else examples,
            description=present.description if description is None else description,
            if_match=entry.number if arguments.if_match is None else arguments.if_match,
        )
        _changed(changed, arguments)
    elif not _printed(entry.profile, arguments):
        print_table(_profile_rows(entry.profile))


def _examples(file: Path | None) -> list[str] | None:
    """The lines of the file that are not empty."""
    if file is None:
        return None
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _changes(arguments: argparse.Namespace) -> dict[str, object]:
    """The fields of the policy that the options name."""
    fields = {
        "compositions": arguments.compositions,
        "negative": arguments.negative,
        "keys": arguments.key,
    }
    changes = {name: value for name, value in fields.items() if value is not None}
    return changes | {"keys": None} if arguments.any_key else changes


def _last_policy(client: Client, alias: str) -> tuple[dict[str, object], int]:
    """The policy that a publication would leave, and the version of the alias, 0 for none."""
    try:
        last = client.adapter_history(alias)[-1]
    except errors.NotFound:
        return {}, 0
    return last.policy.model_dump(mode="json"), last.number if last.digest is not None else 0


def _changed(entry: Adapter, arguments: argparse.Namespace) -> None:
    """Tell what an alias is after a change."""
    if _printed(entry, arguments):
        return
    state = "deleted" if entry.digest is None else _digest(entry.digest)
    print(f"{entry.alias}  version {entry.number}  {state}")
    warnings = list(entry.adapter.warnings) if entry.adapter else []
    if entry.error is not None:
        warnings.append(f"it is not served: {entry.error}")
    for warning in warnings:
        print(f"composer: warning: {' '.join(warning.split())}", file=sys.stderr)


def _printed(answer: Wire, arguments: argparse.Namespace) -> bool:
    """Print the answer as JSON, if that is wanted."""
    if arguments.json:
        print(answer.model_dump_json(exclude_unset=True))
    return bool(arguments.json)


def _policy_rows(policy: AdapterPolicy) -> list[tuple[str, str]]:
    return [
        ("compositions", "yes" if policy.compositions else "no"),
        ("negative", "yes" if policy.negative else "no"),
        ("keys", "any" if policy.keys is None else " ".join(policy.keys) or "none"),
    ]


def _profile_rows(profile: AdapterProfile) -> list[tuple[str, str]]:
    examples = profile.examples or ()
    shown = f", such as {_line(examples[0])}" if examples else ""
    return [
        ("description", " ".join((profile.description or "-").split())),
        ("examples", f"{len(examples)}{shown}"),
    ]


def _rules(policy: AdapterPolicy) -> str:
    """What the policy forbids, in few words."""
    rules = [] if policy.compositions else ["alone"]
    rules += [] if policy.negative else ["not negative"]
    rules += [] if policy.keys is None else [f"keys: {len(policy.keys)}"]
    return ", ".join(rules) or "open"


def _served(entry: Adapter) -> str:
    if entry.served:
        return "yes"
    return f"no: {' '.join(entry.error.split())}" if entry.error else "no"


def _digest(digest: str | None) -> str:
    return "-" if digest is None else digest[:_SHOWN]


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _kinds(modules: tuple[str, ...]) -> str:
    """How many, and the last parts of their names."""
    kinds = sorted({module.rpartition(".")[2] for module in modules})
    return f"{len(modules)}: {', '.join(kinds)}"


def _size(size_bytes: int) -> str:
    if size_bytes < 10**6:
        return f"{size_bytes / 10**3:.1f} kB"
    return f"{size_bytes / 10**6:.1f} MB"
