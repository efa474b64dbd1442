"""Our figures on `/metrics`, beside vLLM's.

Labels are bounded: names that the operator or a publisher has chosen, and words of this program;
never what a request says.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from server.request_record import RequestRecord

REQUESTS = Counter(
    "composer_requests",
    "Requests for generated text, by what they composed and how they ended.",
    ("composition", "recipe", "outcome"),
)
ERRORS = Counter(
    "composer_request_errors",
    "Requests on any route that ended with an error, by the code of the error.",
    ("code",),
)
ROWS = Histogram(
    "composer_rows",
    "Rows of the engine's batch that a composed request takes for each answer.",
    buckets=(1, 2, 3, 4, 6, 8, 12, 16, 32, 64),
)
CHOICES = Counter(
    "composer_router_choices",
    "Mixtures that a router let this expert take part in.",
    ("expert",),
)
LOADS = Counter(
    "composer_adapter_loads", "Adapters read into the engine's memory, by outcome.", ("outcome",)
)
LOAD_SECONDS = Histogram(
    "composer_adapter_load_seconds",
    "Time from the decision to load an adapter to its proof, successful loads only.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
IN_FLIGHT = Gauge("composer_requests_in_flight", "Requests whose answer is not complete.")
DRAINING = Gauge("composer_draining", "1 from the signal to stop on, else 0.")
LEASES = Gauge("composer_leases", "Adapter generations held by requests in flight, summed.")
GENERATIONS = Gauge(
    "composer_adapter_generations", "Adapter generations that an alias or a request still needs."
)
STORE_POSITION = Gauge(
    "composer_store_position", "Entries of the store's journal that this server follows."
)


def count_request(record: RequestRecord, outcome: str) -> None:
    """Count a request that has ended."""
    REQUESTS.labels(record.composition, record.recipe, outcome).inc()
    if record.composed and record.rows:
        ROWS.observe(record.rows)


def count_error(code: str) -> None:
    """Count an answer that was an error."""
    ERRORS.labels(code).inc()


def count_choices(experts: Iterable[str]) -> None:
    """Count the experts of one mixture, once its router has chosen them."""
    for expert in experts:
        CHOICES.labels(expert).inc()


@contextmanager
def adapter_load() -> Iterator[None]:
    """Measure the load of one adapter."""
    began = time.monotonic()
    try:
        yield
    except BaseException:
        LOADS.labels("failed").inc()
        raise
    LOADS.labels("loaded").inc()
    LOAD_SECONDS.observe(time.monotonic() - began)
