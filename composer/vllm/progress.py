"""Progress of a long start in the log: the present stage, and how long it has taken."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

_REMINDER_S = 15.0
"""Time between two log messages about the same stage."""


@contextmanager
def stage(doing: str) -> Iterator[None]:
    """Log a stage ("loading the engine") as it begins, and from time to time until it ends."""
    logger.info("%s", doing)
    began = time.monotonic()
    ended = threading.Event()

    def remind() -> None:
        while not ended.wait(_REMINDER_S):
            logger.info("still %s after %.0f s", doing, time.monotonic() - began)

    reminder = threading.Thread(target=remind, name="progress", daemon=True)
    reminder.start()
    try:
        yield
    finally:
        ended.set()
        reminder.join()
