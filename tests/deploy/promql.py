"""The metrics and labels that PromQL expressions name.

Reads what this repository's alerts and dashboard use of the language; promtool reads all of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.deploy.manifests import ALERTS, CHART, read_yaml

_CLAUSE = re.compile(r"\b(?:by|on|group_left|group_right|without|ignoring)\s*\(([^)]*)\)")
_SELECTOR = re.compile(
    r"(?P<name>[A-Za-z_:][\w:]*)\s*(?P<call>\()?(?P<labels>\{[^}]*\})?(?P<range>\[[^\]]*\])?"
)
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
DASHBOARD: dict[str, Any] = json.loads(
    (CHART / "files" / "dashboard.json").read_text(encoding="utf-8")
)


@dataclass(frozen=True, slots=True)
class Selector:
    """One metric in an expression.

    labels: labels that are matched, or grouped by anywhere in the expression.
    ranged: whether a range follows, such as `[5m]`.
    """

    metric: str
    labels: frozenset[str]
    ranged: bool


def selectors(expression: str) -> list[Selector]:
    """Return the metrics of an expression."""
    grouped: set[str] = set()
    for clause in _CLAUSE.findall(expression):
        grouped |= {label.strip() for label in clause.split(",")} - {""}
    found = []
    for match in _SELECTOR.finditer(_CLAUSE.sub(" ", expression)):
        if match["call"] is None:
            labels = {label for label, _ in _MATCHER.findall(match["labels"] or "")}
            ranged = match["range"] is not None
            found.append(Selector(match["name"], frozenset(labels | grouped), ranged))
    return found


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard that draw something."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Yield what shows an expression, and the expression: the dashboard's, then the alerts'."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']!r}", target["expr"]
    for group in read_yaml(ALERTS)["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]
