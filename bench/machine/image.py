"""The Dockerfile's CPU image: built on a clean Debian, and running much as Docker would run it.

A container has a network of its own, which leads nowhere: its port is free whatever else this
machine serves, and what the image lacks it cannot download.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zoo
from bench.machine.buildah import Buildah
from bench.machine.processes import descendants
from bench.machine.server import stop

TOOLS = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "curl": "curl"}
"""Program that a container needs on this machine -> its Debian package."""

READY_S = 300
"""Longest wait for readiness."""

_BASE = "localhost/debian"
_NAME = "localhost/composer:cpu"
_OWN_NETWORK = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


@dataclass(frozen=True, slots=True)
class Image:
    """An image, its configuration as `docker inspect` shows it, and its size as text."""

    buildah: Buildah
    config: Mapping[str, Any]
    size: str


def build(buildah: Buildah) -> Image:
    """Build the CPU image from the working tree, with pip's configuration as a secret.

    Raises:
        subprocess.CalledProcessError: the build failed; its output is on stdout and stderr.
    """
    buildah.run("commit", "--quiet", "--rm", buildah.debian(()), _BASE)
    command = [
        *(*buildah.command, "build", "--isolation", "chroot", "--format", "docker"),
        *("--pull-never", "--build-arg", "ENGINE=cpu", "--build-arg", f"CPU_BASE={_BASE}"),
        *("--secret", f"id=pip.conf,src={buildah.pip_conf}", *buildah.mounts()),
        *("--tag", _NAME, str(zoo.PROJECT)),
    ]
    subprocess.run(command, check=True)
    inspected = json.loads(buildah.run("inspect", "--type", "image", _NAME))
    (listed,) = json.loads(buildah.run("images", "--json", _NAME))
    return Image(buildah, inspected["Docker"]["config"], listed["size"])


@dataclass(frozen=True, slots=True)
class Container:
    """A running container.

    name: for buildah.
    process: `buildah run`, in the container's network; it ends with the server's exit status.
    """

    image: Image
    name: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def curl(self, path: str, *options: str) -> str | None:
        """Return the body of a successful answer of the server, else None."""
        url = f"http://127.0.0.1:8000{path}"
        asked = self._inside("curl", "--silent", "--fail", "--max-time", "60", *options, url)
        return asked.stdout if asked.returncode == 0 else None

    def execute(self, *command: str) -> int:
        """Run a command in the container as the image's user; return its exit status."""
        return self._inside(*_run(self.image, self.name), *command).returncode

    def is_healthy(self) -> bool:
        """Run the image's health check."""
        kind, *command = self.image.config["Healthcheck"]["Test"]
        if kind != "CMD":
            raise ValueError(
                f"the health check is of kind {kind}; it must need no shell: CMD [...]"
            )
        return self.execute(*command) == 0

    def await_readiness(self) -> bool:
        """Return whether `/ready` answers 200 before the server ends, within `READY_S`."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.curl("/ready") is not None:
                return True
            time.sleep(1)
        return False

    def server(self) -> int:
        """Return the process id of the container's first process on this machine."""
        entry = " ".join(self.image.config["Entrypoint"])
        # buildah's own processes name the command as well, after theirs.
        start = re.compile(rf"(\S*/)?{re.escape(entry)}\b")
        processes = descendants(self.process.pid)
        servers = [pid for pid, command in processes.items() if start.match(command)]
        if len(servers) != 1:
            raise RuntimeError(f"{len(servers)} servers are in the container: {processes}")
        return servers[0]

    def end(self, seconds: float) -> int:
        """Send the image's stop signal to the server and return its exit status.

        Raises:
            subprocess.TimeoutExpired: it runs on after `seconds`.
        """
        os.kill(self.server(), signal.Signals[self.image.config["StopSignal"]])
        return self.process.wait(seconds)

    def text(self) -> str:
        """Return what the server has printed so far."""
        descriptor = self.log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def _inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        network = ("nsenter", f"--net=/proc/{self.process.pid}/ns/net")
        return subprocess.run([*network, *command], stdout=subprocess.PIPE, text=True, check=False)


@contextmanager
def running(
    image: Image, arguments: Sequence[str], volumes: Mapping[Path, str]
) -> Iterator[Container]:
    """Run the image as its own user until the end of the block.

    Args:
        image: what to run.
        arguments: what follows the image's entry point, instead of its default.
        volumes: folder of this machine -> path in the container, where it is read-only.
    """
    name = image.buildah.run("from", "--pull-never", _NAME).strip()
    mounts = [f"--volume={here}:{there}:ro" for here, there in volumes.items()]
    command = [*_run(image, *mounts, name), *image.config["Entrypoint"], *arguments]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*_OWN_NETWORK, *command], stdout=log, stderr=log)
        try:
            yield Container(image, name, process, log)
        finally:
            stop(process)


def _run(image: Image, *options: str) -> tuple[str, ...]:
    return (*image.buildah.command, "run", "--isolation", "chroot", *options, "--")
