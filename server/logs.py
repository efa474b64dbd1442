"""Logging: our own lines and all errors; with `--verbose` everything.

vLLM, torch and transformers log dozens of warnings for their developers while the server starts.
Raising their levels hides these; levels that the environment sets are kept.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_OURS = ("server", "adapters", "composer")
_LEVEL = "VLLM_LOGGING_LEVEL"
_QUIET = {
    _LEVEL: "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
    "TORCH_LOGS": "-all",
}
_CHOSEN = "COMPOSER_QUIET"
"""Variable that tells child processes that the levels are ours."""


def choose_levels(*, verbose: bool) -> None:
    """Set the log levels of this process and its children in the environment.

    Call it before vLLM, torch and transformers are imported.
    """
    if verbose:
        os.environ.setdefault(_LEVEL, "INFO")
    elif _LEVEL not in os.environ:
        os.environ[_CHOSEN] = "1"
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)


def configure_logging() -> None:
    """Print our records of level INFO and above on stdout."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(_FORMAT, "%Y-%m-%d %H:%M:%S"))
    for name in _OURS:
        ours = logging.getLogger(name)
        ours.setLevel(logging.INFO)
        ours.handlers = [handler]
        ours.propagate = False
    if _CHOSEN in os.environ and not sys.warnoptions:
        warnings.simplefilter("ignore")


def end_quiet_start() -> None:
    """Show vLLM's warnings in this process once it serves requests."""
    if _CHOSEN in os.environ:
        show("vllm", logging.WARNING)


def show(name: str, level: int) -> None:
    """Show records of a logger of vLLM from `level` on, whatever the level of the others."""
    logging.getLogger(name).setLevel(level)
    for handler in logging.getLogger("vllm").handlers:
        handler.setLevel(min(handler.level, level))
