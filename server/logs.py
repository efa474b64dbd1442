"""What the server prints: our own lines, errors of everybody, and all the rest with `--verbose`.

vLLM, torch and transformers warn of dozens of things that concern their developers. They are left
out by level, while the server starts; levels that the environment sets stay as they are.
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
"""Set where the levels are ours: processes that this one starts read it."""


def choose_levels(*, verbose: bool) -> None:
    """Set in the environment what this process and those that it starts print.

    Call it before vLLM, torch and transformers are imported.
    """
    if verbose:
        os.environ.setdefault(_LEVEL, "INFO")
    elif _LEVEL not in os.environ:
        os.environ[_CHOSEN] = "1"
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)


def configure_logging() -> None:
    """Print our own records on stdout, one line each, from INFO on."""
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
    """Let vLLM's warnings through in this process, once requests come."""
    if _CHOSEN in os.environ:
        show("vllm", logging.WARNING)


def show(name: str, level: int) -> None:
    """Print records of a logger of vLLM's from `level` on, whatever the level of the others."""
    logging.getLogger(name).setLevel(level)
    for handler in logging.getLogger("vllm").handlers:
        handler.setLevel(min(handler.level, level))
