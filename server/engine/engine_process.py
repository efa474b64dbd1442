"""The module that every process of the engine imports first.

In a new process, multiprocessing imports the main module of its parent under the name
`__mp_main__`, unless the file is called `__main__.py`. This module takes its place: it ties the
engine's processes to the front end before they load a model, and configures their logging.
"""

from __future__ import annotations

import os
import sys

from composer.vllm.lifeline import tie_to_parent
from server.logs import configure_logging

_PARENT = "COMPOSER_PARENT_PID"


def run_first_in_children() -> None:
    """Make this module the first import of all processes that are started from now on."""
    sys.modules["__main__"] = sys.modules[__name__]
    os.environ[_PARENT] = str(os.getpid())


if __name__ == "__mp_main__":
    tie_to_parent(int(os.environ[_PARENT]))
    os.environ[_PARENT] = str(os.getpid())  # for workers
    configure_logging()
