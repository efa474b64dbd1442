"""vllm-router as a process on a free port, in front of servers of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from bench.claim import CannotMeasure
from bench.machine.environment import original
from bench.machine.server import Running, free_port, is_ready, stop

PACKAGES = Path(sys.prefix) / "router"
"""Where the Makefile installs requirements/router.lock."""

HEALTH_S = 1
"""Interval between two looks at a server's `/ready`; three failures take it out."""


@contextmanager
def routing(servers: Sequence[str], policy: str) -> Iterator[Running]:
    """Run the router in front of servers until the end of the block.

    Args:
        servers: their URLs; all must be ready.
        policy: how the router chooses a server, such as `round_robin`.

    Raises:
        CannotMeasure: the router is not installed.
        RuntimeError: it did not start; the message ends with its log.
    """
    if not (PACKAGES / "vllm_router").is_dir():
        raise CannotMeasure(f"vllm-router is not installed in {PACKAGES}: `make scale-out` does it")
    port = free_port()
    command = [
        *(sys.executable, "-m", "vllm_router.launch_router", "--worker-urls", *servers),
        *("--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())),
        *("--policy", policy, "--health-check-endpoint", "/ready"),
        *("--health-check-interval-secs", str(HEALTH_S)),
    ]
    paths = [str(PACKAGES), *filter(None, [original().get("PYTHONPATH")])]
    with (
        tempfile.TemporaryFile() as log,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client,
    ):
        process = subprocess.Popen(
            command,
            env=original() | {"PYTHONPATH": os.pathsep.join(paths)},
            stdout=log,
            stderr=log,
        )
        router = Running(client, process, log)
        try:
            if not is_ready(client, process):
                raise RuntimeError(f"the router did not start:\n{router.text()[-4000:]}")
            yield router
        finally:
            stop(process)
