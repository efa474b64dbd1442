"""What the server prints: our own records with time and level, others' from a level on."""

from __future__ import annotations

import logging
import sys

_OURS = ("server", "adapters", "composer")


def configure_logging() -> None:
    """Print our own records on stdout, one line each, from INFO on."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in _OURS:
        ours = logging.getLogger(name)
        ours.setLevel(logging.INFO)
        ours.handlers = [handler]
        ours.propagate = False
