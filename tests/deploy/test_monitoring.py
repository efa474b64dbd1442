"""Alerts, and the dashboard, as far as they need no server; tests/server/http/test_dashboard.py
compares them with the metrics of one."""

from __future__ import annotations

import re
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.manifests import ALERTS, DEPLOY, needs_promtool, read_yaml, run
from tests.deploy.promql import DASHBOARD, Selector, panels, queries, selectors

MONITORING = DEPLOY / "monitoring"


def test_metrics_of_an_expression_are_found() -> None:
    expression = 'sum by (a, le) (rate(x_total{b=~"c|d"}[5m])) / on (a) group_right () max(v:y) > 2'
    assert selectors(expression) == [
        Selector("x_total", frozenset({"a", "b", "le"}), True),
        Selector("v:y", frozenset({"a", "le"}), False),
    ]


@needs_promtool
def test_the_rules_are_right() -> None:
    done = run("promtool", "check", "rules", "--lint=all", "--lint-fatal", str(ALERTS))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_alerts_fire_for_their_reasons_only() -> None:
    done = run("promtool", "test", "rules", str(MONITORING / "alerts_test.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case() -> None:
    cases = (MONITORING / "alerts_test.yaml").read_text(encoding="utf-8")
    for group in read_yaml(ALERTS)["groups"]:
        for rule in group["rules"]:
            assert len(re.findall(rf"\b{rule['alert']}\b", cases)) >= 2, rule["alert"]
            assert rule["labels"]["severity"] in {"critical", "warning"}
            assert rule["annotations"].keys() == {"summary", "description"}


@needs_promtool
def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    shutil.copy(MONITORING / "prometheus.yaml", tmp_path)
    shutil.copy(ALERTS, tmp_path)
    done = run("promtool", "check", "config", str(tmp_path / "prometheus.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_queries_of_the_dashboard_are_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{i}", "expr": expression.replace("$__rate_interval", "1m")}
        for i, (_, expression) in enumerate(queries())
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = run("promtool", "check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_panels_have_a_place_of_their_own() -> None:
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)

    def overlap(a: dict[str, Any], b: dict[str, Any]) -> bool:
        return all(a[at] < b[at] + b[size] and b[at] < a[at] + a[size] for at, size in ("xw", "yh"))

    for one, other in combinations(everything, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in everything)


def test_panels_read_the_chosen_source_and_servers() -> None:
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "instance"}
    for panel in panels():
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        for source in (panel, *panel["targets"]):
            assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            for selector in selectors(target["expr"]):
                assert "instance" in selector.labels, target["expr"]
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = set(re.findall(r"\bby \(([^)]*)\)", target["expr"]))
            kept = {label.strip() for labels in grouped for label in labels.split(",")}
            assert shown <= kept | ({"instance"} if not grouped else set()), target["legendFormat"]
