"""Our metrics on `/metrics`, besides vLLM's.

The values of labels are bounded: names that operators and publishers choose, and words of this
program, but nothing from requests.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram, Info

from server.request_record import RequestRecord, ScoringKind

REQUESTS = Counter(
    "composer_requests",
    "Requests for generated text, by composition, recipe and outcome.",
    ("composition", "recipe", "outcome"),
)
ERRORS = Counter(
    "composer_request_errors",
    "Requests on any route that ended with an error, by its code.",
    ("code",),
)
ROWS = Histogram(
    "composer_rows",
    "Rows of the engine's batch per answer of a composed request.",
    buckets=(1, 2, 3, 4, 6, 8, 12, 16, 32, 64),
)
CHOICES = Counter(
    "composer_router_choices",
    "Mixtures in which this expert took part.",
    ("expert",),
)
SCORINGS = Counter(
    "composer_scoring_requests",
    "Requests that score texts or fit weights, by kind and outcome.",
    ("kind", "outcome"),
)
SCORING_SECONDS = Histogram(
    "composer_scoring_seconds",
    "Duration of successful requests that score texts or fit weights.",
    ("kind",),
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000),
)
TEXTS = Counter(
    "composer_scored_texts",
    "Texts that the engine has scored; a fit reads each once in every pass.",
    ("kind",),
)
TOKENS = Counter(
    "composer_scored_tokens",
    "Tokens of those texts that were scored, without the prompts before them.",
    ("kind",),
)
LOADS = Counter(
    "composer_adapter_loads", "Adapters loaded into the engine's memory, by outcome.", ("outcome",)
)
LOAD_SECONDS = Histogram(
    "composer_adapter_load_seconds",
    "Duration of successful loads of an adapter, including its checks.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
IN_FLIGHT = Gauge("composer_requests_in_flight", "Requests whose response is not complete.")
DRAINING = Gauge("composer_draining", "1 after the signal to stop, otherwise 0.")
ALIVE = Gauge("composer_engine_alive", "1 while the engine can answer, 0 after its death.")
BUILD = Info("composer_build", "The release of this server, and of the vLLM in it.")
LEASES = Gauge("composer_leases", "Leases of adapter generations by requests in flight.")
GENERATIONS = Gauge(
    "composer_adapter_generations", "Adapter generations that an alias or a request in flight uses."
)
STORE_POSITION = Gauge(
    "composer_store_position",
    "Position in the store's journal up to which this server has applied changes.",
)


def count_request(record: RequestRecord, outcome: str) -> None:
    """Count a request that has ended."""
    REQUESTS.labels(record.composition, record.recipe, outcome).inc()
    if record.composed and record.rows:
        ROWS.observe(record.rows)


def count_scoring(kind: ScoringKind, outcome: str, seconds: float) -> None:
    """Count a request to score texts or to fit weights that has ended."""
    SCORINGS.labels(kind.word, outcome).inc()
    if outcome == "ok":
        SCORING_SECONDS.labels(kind.word).observe(seconds)


def count_text(kind: ScoringKind, tokens: int) -> None:
    """Count a text of such a request, of which `tokens` were scored."""
    TEXTS.labels(kind.word).inc()
    TOKENS.labels(kind.word).inc(tokens)


def count_error(code: str) -> None:
    """Count a response that is an error."""
    ERRORS.labels(code).inc()


def count_choices(experts: Iterable[str]) -> None:
    """Count the experts that a router has chosen for one mixture."""
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
