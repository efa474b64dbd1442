"""A clean Debian root with chosen packages, in which commands run as an ordinary user."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zoo
from bench.machine.buildah import PROXIES, Buildah, buildah, run

USER = "someone"
HOME = Path("/home", USER)
SOURCE = HOME / "source"


@dataclass(frozen=True, slots=True)
class CleanRoot:
    """A root filesystem: `container` of `buildah`."""

    buildah: Buildah
    container: str

    def run(self, script: str, *, timeout_s: float, user: str = USER) -> tuple[int, list[str]]:
        """Run a shell script in `SOURCE`; return its exit status and its output lines.

        Prints the lines as they arrive. After `timeout_s` the script is ended, with status 124.
        """
        command = [
            *(*self.buildah.command, "run", "--isolation", "chroot", "--user", user),
            *("--volume", f"{self.buildah.pip_conf}:/etc/pip.conf:ro", *self.buildah.mounts()),
            *(f"--env={name}={os.environ[name]}" for name in PROXIES if name in os.environ),
            *("--env", f"HOME={HOME}", "--workingdir", str(SOURCE), self.container, "--"),
            *("timeout", "--kill-after=30", str(timeout_s), "sh", "-euc", script),
        ]
        lines = []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                lines.append(line.rstrip())
        return process.returncode, lines


@contextmanager
def clean_root(packages: Sequence[str]) -> Iterator[CleanRoot]:
    """Create a root with Debian's essential packages, `packages`, and the repository's files.

    The files are those that git tracks, as they are in the working tree. The root is removed at the
    end of the block.

    Raises:
        CannotMeasure: this machine lacks something; the message says what.
        RuntimeError: the user of the root could not be created.
        subprocess.CalledProcessError: mmdebstrap or buildah failed.
    """
    with buildah() as builder:
        source = builder.folder / "source.tar"
        _pack_source(source)
        root = CleanRoot(builder, builder.debian(packages))
        builder.run("add", "--quiet", root.container, str(source), str(SOURCE))
        status, _ = root.run(
            f"useradd --no-create-home {USER} && chown -R {USER}: {HOME}",
            timeout_s=60,
            user="root",
        )
        if status != 0:
            raise RuntimeError(f"useradd ended with status {status} in the clean root")
        yield root


def _pack_source(archive: Path) -> None:
    names = run("git", "-C", str(zoo.PROJECT), "ls-files", "-z").split("\0")
    with tarfile.open(archive, "w") as packed:
        for name in names:
            if (
                name and (zoo.PROJECT / name).exists()
            ):  # deleted files are still tracked until the commit
                packed.add(zoo.PROJECT / name, name)
