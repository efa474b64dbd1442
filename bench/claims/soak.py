"""Two minutes of mixed traffic of 64 clients; `python -m bench.soak` takes longer."""

from __future__ import annotations

from bench.claim import Result
from bench.soak.report import judged
from bench.soak.run import soak

SECONDS = 120.0


def measure() -> Result:
    """Value: wrong, stuck, failed and lost requests, and what is left behind."""
    return judged(soak(SECONDS))
