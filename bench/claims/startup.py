"""Seconds from starting the server to the first composed answer."""

from __future__ import annotations

import time

import zoo
from bench.claim import Result
from bench.machine.server import serving
from bench.measure import show, table

FORMULA = "base + 0.8*(polite - rude)"


def measure() -> Result:
    """Return the seconds of the second start; the first fills the caches of kernels and files."""
    starts = [("first", *start()), ("second", *start())]
    header = ("start", "ready after, s", "answered after, s")
    show(table(header, [(name, f"{ready:.1f}", f"{done:.1f}") for name, ready, done in starts]))
    return Result(starts[-1][2])


def start() -> tuple[float, float]:
    """Return seconds from process start to readiness, and to the first composed answer."""
    began = time.monotonic()
    small = ",".join(f"{name}={path}" for name, path in zoo.SMALL_ADAPTERS.items())
    with serving(options=("--auxiliary", f"small={zoo.SMALL},{small}")) as client:
        ready = time.monotonic() - began
        body = {"model": FORMULA, "prompt": "Once upon a", "max_tokens": 8, "temperature": 0}
        answer = client.post("/v1/completions", json=body)
        seconds = time.monotonic() - began
        answer.raise_for_status()
        if answer.json()["composition"]["rows"] != 3:
            raise RuntimeError(f"the answer was not composed of three rows: {answer.text}")
    return ready, seconds
