"""The life of the engine's processes is tied to the front end: they end with it, or when told.

This module does not import vLLM: `server.engine.engine_process` calls `tie_to_parent` before
anything else, so that a model that is still loading is not left behind either.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from types import FrameType

RELEASE = signal.SIGUSR2
"""After this signal a process of the engine obeys SIGTERM. Only the front end sends it."""

_PR_SET_PDEATHSIG = 1
_WATCH_S = 1.0


def tie_to_parent(parent: int) -> None:
    """Arrange that this process is killed as soon as its `parent` has ended, for any reason.

    On Linux the kernel does it (`prctl(2)`, PR_SET_PDEATHSIG), even where this process is stuck in
    native code. The kernel counts the parent's *thread* as the parent, which is right here: vLLM
    starts all its processes from the main thread. Elsewhere a thread watches the parent.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        _end_without(parent)  # the parent may have ended before
    else:
        threading.Thread(target=_watch, args=(parent,), name="lifeline", daemon=True).start()


def obey_front_end() -> None:
    """End when the front end says so or is gone, and ignore signals to the whole group.

    systemd signals every process of a unit, a terminal every process of the foreground group. The
    front end finishes the requests in flight first, so the engine must outlast that signal: SIGTERM
    and SIGINT are ignored until `RELEASE` has come.

    Call it in the main thread, after vLLM has installed its handlers. It does nothing in a process
    that multiprocessing did not start.
    """
    parent = multiprocessing.parent_process()
    vllm_handler = signal.getsignal(signal.SIGTERM)
    if parent is None or vllm_handler is _ignore:
        return
    tie_to_parent(os.getppid())
    if not parent.is_alive():  # ended before this process was tied to it
        os.kill(os.getpid(), signal.SIGKILL)

    def release(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, vllm_handler)
        release_engine()  # its workers

    # At exit the garbage collector would scan every object of torch and vLLM, for a second of CPU
    # time, and find nothing that the end of the process does not free.
    atexit.register(gc.freeze)
    signal.signal(RELEASE, release)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _ignore)


def release_engine() -> None:
    """Make the child processes of this one obey SIGTERM, with which vLLM stops them."""
    for process in multiprocessing.active_children():
        if process.pid is not None:
            os.kill(process.pid, RELEASE)


def _ignore(signum: int, frame: FrameType | None) -> None:
    # Not SIG_IGN, which compilers and other programs that this process starts would inherit.
    pass


def _watch(parent: int) -> None:
    while True:
        _end_without(parent)
        time.sleep(_WATCH_S)


def _end_without(parent: int) -> None:
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
