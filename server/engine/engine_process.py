"""What every process of the engine runs first.

In a new process multiprocessing imports the main module of the process that started it, under the
name `__mp_main__`, unless its file is called `__main__.py`. So this module takes that place:
processes of the engine are tied to the front end before they read a model, and print what it
prints.
"""

from __future__ import annotations

import os
import sys

from composer.vllm.lifeline import tie_to_parent
from server.logs import configure_logging

_PARENT = "COMPOSER_PARENT_PID"


def run_first_in_children() -> None:
    """Have processes that this one starts from now on run this module first."""
    sys.modules["__main__"] = sys.modules[__name__]
    os.environ[_PARENT] = str(os.getpid())


if __name__ == "__mp_main__":
    tie_to_parent(int(os.environ[_PARENT]))
    os.environ[_PARENT] = str(os.getpid())  # for workers
    configure_logging()
