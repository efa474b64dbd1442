"""vLLM's gauge of running adapters, bounded."""

from __future__ import annotations

from typing import Any


class LatestSeries:
    """A Prometheus gauge of which only the series set last exists.

    `vllm:lora_requests_info` has the names of the adapters that run and wait as labels, so that
    every combination that ever ran would stay, in memory and in each scrape. Gateways read the
    latest.
    """

    def __init__(self, gauge: Any) -> None:
        """`gauge`: a `prometheus_client.Gauge`."""
        self._gauge = gauge
        self._latest: dict[str, Any] = {}

    def labels(self, **labels: Any) -> Any:
        """Return the series with these labels, and remove another one."""
        if labels != self._latest:
            self._gauge.clear()
            self._latest = labels
        return self._gauge.labels(**labels)


def bound_lora_gauge(client: Any) -> None:
    """Keep the latest series only. `client` is vLLM's `AsyncLLM`."""
    if client.logger_manager is None:  # --disable-log-stats
        return
    for stat_logger in client.logger_manager.stat_loggers:
        if (gauge := getattr(stat_logger, "gauge_lora_info", None)) is not None:
            stat_logger.gauge_lora_info = LatestSeries(gauge)
