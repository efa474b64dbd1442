"""Progress of a long start, in the log: what is being done, and for how long."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

_AGAIN_S = 15.0
"""How often a stage that takes long says so."""


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Log `what` is being done as it begins, and from time to time until it ends."""
    logger.info("%s", what)
    began = time.monotonic()
    ended = threading.Event()

    def remind() -> None:
        while not ended.wait(_AGAIN_S):
            logger.info("still %s after %.0f s", what, time.monotonic() - began)

    reminder = threading.Thread(target=remind, name="progress", daemon=True)
    reminder.start()
    try:
        yield
    finally:
        ended.set()
        reminder.join()
