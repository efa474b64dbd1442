"""The dashboard and the alerts of deploy/ against the metrics of a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.promql import queries, selectors
from tests.support.live_server import LiveServer

OF_PROMETHEUS = {"instance", "job"}
"""Labels that a scrape adds."""

ACCEPTED = {
    "2": "application/openmetrics-text;version=1.0.0;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    "3": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
}
"""What Prometheus of a version asks for."""

SCRAPE = "up"
"""The metric that Prometheus makes itself."""


@dataclass(slots=True)
class Shown:
    """A metric of the server: its type, and the labels of its samples."""

    kind: str
    labels: set[str] = field(default_factory=set)
    samples: int = 0


@pytest.fixture(scope="module", params=ACCEPTED)
def metrics(server: LiveServer, request: pytest.FixtureRequest) -> Mapping[str, Shown]:
    """The metrics, by the names that queries use, of a server that has done a bit of everything,
    as Prometheus of some version reads them."""
    assert server.complete("base + 0.5*polite - 0.5*rude", max_tokens=2).status_code == 200
    assert server.chat("auto", "What is 12 plus 7?", max_tokens=2).status_code == 200
    body = {"model": "polite", "items": [{"prompt": "Once upon a", "completion": " time"}]}
    assert server.http.post("/v1/compose/score", json=body).status_code == 200
    assert server.complete("nobody").status_code == 404
    answer = server.http.get("/metrics", headers={"Accept": ACCEPTED[request.param]})
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    shown: dict[str, Shown] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            metric = shown.setdefault(sample.name, Shown(family.type))
            metric.labels |= sample.labels.keys()
            metric.samples += 1
    return shown


def test_queries_name_metrics_and_labels_that_exist(metrics: Mapping[str, Shown]) -> None:
    for place, expression in queries():
        found = selectors(expression)
        assert found, place
        for selector in found:
            if selector.metric == SCRAPE:
                continue
            metric = metrics.get(selector.metric)
            assert metric is not None, f"{place}: no server shows {selector.metric}"
            labels = selector.labels - OF_PROMETHEUS
            assert labels <= metric.labels, f"{place}: {selector.metric} has {metric.labels}"


def test_counters_are_rated_and_gauges_are_not(metrics: Mapping[str, Shown]) -> None:
    for place, expression in queries():
        for selector in selectors(expression):
            if selector.metric != SCRAPE:
                rises = metrics[selector.metric].kind in {"counter", "histogram"}
                assert rises == selector.ranged, f"{place}: {selector.metric}"


def test_the_dashboard_shows_every_metric_of_ours(metrics: Mapping[str, Shown]) -> None:
    queried = {selector.metric for _, expression in queries() for selector in selectors(expression)}
    ours = {name for name in metrics if name.startswith("composer_")}
    ours = {name for name in ours if not name.endswith(("_created", "_sum", "_count"))}
    assert ours - queried == set()
