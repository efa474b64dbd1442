"""The server as a process on a free port, with the zoo's base model and adapters or others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

import zoo
from bench.machine.environment import original

READY_S = 300
"""Longest wait for readiness."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server, its process (the leader of a process group), and a client."""

    client: httpx.Client
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def text(self) -> str:
        """Return the output so far; `pread` leaves the file position to the writing process."""
        descriptor = self.log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


@contextmanager
def serving(
    environment: Mapping[str, str] | None = None, options: Sequence[str] = ()
) -> Iterator[httpx.Client]:
    """Yield a client for the server that `running` starts."""
    with running(environment, options) as server:
        yield server.client


@contextmanager
def running(
    environment: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    *,
    model: Path = zoo.BASE,
    adapters: Mapping[str, Path] = zoo.ADAPTERS,
    port: int | None = None,
) -> Iterator[Running]:
    """Serve a model and adapters, the zoo's by default, from readiness to the end of the block.

    Args:
        environment: variables beside those that this process was started with.
        options: further options of the server.
        model: folder of the base model.
        adapters: folders of adapters by name.
        port: of the loopback address; a free one by default.

    Raises:
        RuntimeError: the server ended or took longer than `READY_S`; the message ends with its log.
    """
    port = port or free_port()
    pairs = ",".join(f"{name}={path}" for name, path in adapters.items())
    command = [
        *(sys.executable, "-m", "server", "--port", str(port)),
        *("--model", str(model), "--adapters", pairs, *options),
    ]
    with (
        tempfile.TemporaryFile() as log,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client,
    ):
        process = subprocess.Popen(
            command,
            cwd=zoo.PROJECT,
            env=original() | dict(environment or {}),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        server = Running(client, process, log)
        try:
            if not is_ready(client, process):
                raise RuntimeError(f"the server did not start:\n{server.text()[-4000:]}")
            yield server
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process: by SIGTERM, and after 30 s by SIGKILL."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a port of the loopback address on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    """Return whether `/health` answers 200 before the process ends, within `READY_S`."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            if client.get("/health").status_code == 200:
                return True
        except httpx.TransportError:
            pass
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue  # still starting
        return False
    return False
