"""`/metrics`: vLLM's metrics and ours, with the present figures of the engine and the registry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.responses import Response

from adapters import Registry, Store
from composer.release import VERSION
from server import metrics
from server.auth.access_control import METRICS
from server.engine.port import Engine
from server.lifecycle import Lifecycle, Phase

logger = logging.getLogger(__name__)

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
"""The one format, which every scraper reads. prometheus_client's OpenMetrics writes
`vllm:num_requests_running` as `vllm_num_requests_running` to a Prometheus before version 3
(prometheus/client_python#1177), and queries find nothing."""

_PATIENCE_S = 1.0
"""How long to wait for the engine's figures before showing the previous ones."""


class EngineFigures(Collector):
    """The latest figures of the gang scheduler."""

    def __init__(self) -> None:
        self.latest: dict[str, Any] = {}

    def collect(self) -> Iterable[Metric]:
        """Yield nothing before the engine has reported."""
        latest = self.latest
        if not latest:
            return
        waits = latest["gang_waits"]
        yield HistogramMetricFamily(
            "composer_gang_wait_seconds",
            "Time that the rows of composed requests waited until all could run.",
            buckets=list(waits["buckets"].items()),
            sum_value=waits["sum_s"],
        )
        yield CounterMetricFamily(
            "composer_gang_preemptions",
            "Composed requests that released their KV blocks and started again.",
            value=latest["gang_preemptions"],
        )
        yield GaugeMetricFamily(
            "composer_rows_running", "Rows in the engine's batch.", value=latest["rows_running"]
        )
        yield GaugeMetricFamily(
            "composer_gangs_waiting",
            "Composed requests that wait for room for all their rows.",
            value=latest["gangs_waiting"],
        )


class AdapterFigures(Collector):
    """The generations in memory that an alias or a request uses, as they are now."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        """Yield one series for each generation; it ends when the generation is retired."""
        leases = GaugeMetricFamily(
            "composer_adapter_leases",
            "Requests in flight that compute with an adapter generation; state is 'served' while "
            "new requests get it, otherwise 'retiring'.",
            labels=("adapter", "generation", "state"),
        )
        for generation in self._registry.live:
            state = "served" if self._registry.is_current(generation) else "retiring"
            leases.add_metric(
                (generation.alias, generation.digest[:12], state), self._registry.users(generation)
            )
        yield leases


def make_metrics(
    engine: Engine, registry: Registry, store: Store, lifecycle: Lifecycle
) -> APIRouter:
    """Return the route. It replaces vLLM's, which cannot ask the engine."""
    router = APIRouter(tags=["metrics"])
    figures = EngineFigures()
    REGISTRY.register(figures)
    REGISTRY.register(AdapterFigures(registry))
    metrics.BUILD.info({"version": VERSION, "vllm": engine.version})

    async def refresh() -> None:
        metrics.IN_FLIGHT.set(lifecycle.requests_in_flight)
        metrics.DRAINING.set(lifecycle.phase is not Phase.SERVING)
        metrics.ALIVE.set(engine.alive)
        metrics.LEASES.set(registry.leases)
        metrics.STORE_POSITION.set(store.followed)
        metrics.GENERATIONS.set(len(registry.live))
        if not engine.alive:
            return
        try:
            async with asyncio.timeout(_PATIENCE_S):
                figures.latest = await engine.figures()
        except TimeoutError:
            logger.warning("The engine did not report its figures within %g s", _PATIENCE_S)

    formats: dict[str, Any] = {"text/plain": {}}

    @router.get(METRICS, response_class=Response, responses={200: {"content": formats}})
    async def show_metrics() -> Response:
        """Return the metrics in Prometheus' text format."""
        await refresh()
        return Response(generate_latest(REGISTRY), media_type=TEXT_FORMAT)

    return router
