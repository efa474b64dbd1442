"""Adapters of a server as text: tables, policies, profiles."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clients.cli.tables import print_table, size

if TYPE_CHECKING:
    from clients.responses import (
        Adapter,
        AdapterList,
        AdapterPolicy,
        AdapterProfile,
        AdapterVersion,
    )

_DIGITS = 12
"""Of a digest in a table; the engine's names have as many."""


def print_adapters(adapters: AdapterList) -> None:
    """Print a line for each adapter, and those that only requests in flight still use."""
    rows = [("ALIAS", "VERSION", "DIGEST", "RANK", "SIZE", "POLICY", "SERVED")]
    for entry in adapters.data:
        report = entry.adapter
        rank, bytes_ = (str(report.rank), size(report.size_bytes)) if report else ("-", "-")
        digest, policy = _digest(entry.digest), _policy(entry.policy)
        row = (entry.alias, str(entry.number), digest, rank, bytes_, policy, _served(entry))
        rows.append(row)
    if adapters.data:
        print_table(rows)
    if adapters.retiring:
        print(f"\nstill in use by requests in flight: {', '.join(adapters.retiring)}")


def print_adapter(entry: Adapter) -> None:
    """Print all that is known of one adapter."""
    rows = [
        ("alias", entry.alias),
        ("version", f"{entry.number}, {entry.action} by {entry.actor} at {entry.time}"),
        ("digest", entry.digest or "-"),
        ("origin", _line(entry.origin)),
        ("served", _served(entry)),
        *policy_rows(entry.policy),
        *profile_rows(entry.profile),
    ]
    if (report := entry.adapter) is not None:
        rows += [
            ("base model", report.base_model or "not named"),
            ("rank", str(report.rank)),
            ("scaling", ", ".join(f"{scale:g}" for scale in report.scaling)),
            ("parameters", f"{report.parameters}, {', '.join(report.dtypes)}"),
            ("size", size(report.size_bytes)),
            ("modules", module_kinds(report.modules)),
            *(("warning", warning) for warning in report.warnings),
        ]
    print_table(rows)


def print_versions(versions: Sequence[AdapterVersion]) -> None:
    """Print a line for each version of an alias."""
    rows = [("VERSION", "ACTION", "DIGEST", "TIME", "ACTOR", "POLICY", "ORIGIN")]
    for version in versions:
        number, digest, origin = str(version.number), _digest(version.digest), _line(version.origin)
        policy = _policy(version.policy)
        rows.append((number, version.action, digest, version.time, version.actor, policy, origin))
    print_table(rows)


def print_change(entry: Adapter) -> None:
    """Print what an alias is after a change; warnings on standard error."""
    state = "deleted" if entry.digest is None else _digest(entry.digest)
    print(f"{entry.alias}  version {entry.number}  {state}")
    warnings = list(entry.adapter.warnings) if entry.adapter else []
    if entry.error is not None:
        warnings.append(f"it is not served: {entry.error}")
    for warning in warnings:
        print(f"composer: warning: {' '.join(warning.split())}", file=sys.stderr)


def policy_rows(policy: AdapterPolicy) -> list[tuple[str, str]]:
    """Return the fields of a policy and their values."""
    return [
        ("compositions", "yes" if policy.compositions else "no"),
        ("negative", "yes" if policy.negative else "no"),
        ("keys", "any" if policy.keys is None else " ".join(policy.keys) or "none"),
    ]


def profile_rows(profile: AdapterProfile) -> list[tuple[str, str]]:
    """Return the fields of a profile and their values."""
    examples = profile.examples or ()
    first = f", such as {_line(examples[0])}" if examples else ""
    return [
        ("description", " ".join((profile.description or "-").split())),
        ("examples", f"{len(examples)}{first}"),
    ]


def module_kinds(modules: Sequence[str]) -> str:
    """Return how many modules there are, and the last parts of their names."""
    kinds = sorted({module.rpartition(".")[2] for module in modules})
    return f"{len(modules)}: {', '.join(kinds)}"


def _policy(policy: AdapterPolicy) -> str:
    """Return what the policy forbids, in few words."""
    rules = [] if policy.compositions else ["alone"]
    rules += [] if policy.negative else ["not negative"]
    rules += [] if policy.keys is None else [f"keys: {len(policy.keys)}"]
    return ", ".join(rules) or "open"


def _served(entry: Adapter) -> str:
    if entry.served:
        return "yes"
    return f"no: {' '.join(entry.error.split())}" if entry.error else "no"


def _digest(digest: str | None) -> str:
    return "-" if digest is None else digest[:_DIGITS]


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
