"""Two minutes of mixed traffic from 64 clients; `python -m bench.soak` runs for longer."""

from __future__ import annotations

from bench.claim import Result
from bench.soak.report import judged
from bench.soak.run import soak

SECONDS = 120.0


def measure() -> Result:
    """Return the number of wrong, stuck, failed and lost requests and of leftovers."""
    return judged(soak(SECONDS))
