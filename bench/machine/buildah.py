"""Containers and images on this machine without a daemon: buildah, on a Debian root of mmdebstrap.

Needs root. What installing packages needs of the machine (pip's configuration, the folders and
files that it names, certificates, proxies) is passed on, read-only.
"""

from __future__ import annotations

import ast
import os
import platform
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from configparser import RawConfigParser
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bench.claim import CannotMeasure

TOOLS = {"mmdebstrap": "mmdebstrap", "buildah": "buildah"}
"""Program -> Debian package."""

PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


_CERTIFICATES = "/etc/pip-certificates.pem"


@dataclass(frozen=True, slots=True)
class Buildah:
    """buildah with images and containers of its own, and what it passes on from this machine.

    command: buildah with its state folders.
    folder: for files that last as long as this.
    pip_conf: pip's configuration on this machine, as one file.
    paths: files and folders that it names; path on this machine -> path in containers.
    """

    command: tuple[str, ...]
    folder: Path
    pip_conf: Path
    paths: Mapping[str, str]

    def run(self, *arguments: str) -> str:
        """Run a command of buildah and return what it prints.

        Raises:
            subprocess.CalledProcessError: it failed; its errors are on stderr.
        """
        return run(*self.command, *arguments)

    def debian(self, packages: Sequence[str]) -> str:
        """Return a new container with Debian's essential packages and `packages`.

        The release is this machine's if it runs Debian, else the stable one.
        """
        system = self.folder / "system.tar"
        include = [f"--include={','.join(packages)}"] if packages else []
        run("mmdebstrap", "--quiet", "--variant=minbase", *include, _suite(), str(system))
        container = self.run("from", "scratch").strip()
        self.run("add", "--quiet", container, str(system), "/")
        system.unlink()
        return container

    def mounts(self) -> Iterator[str]:
        """Yield options that mount `paths`, of `buildah run` and `buildah build`."""
        for here, there in self.paths.items():
            yield from ("--volume", f"{here}:{there}:ro")


@contextmanager
def buildah(further: Mapping[str, str] = MappingProxyType({})) -> Iterator[Buildah]:
    """Yield a buildah whose images and containers are removed at the end of the block.

    Args:
        further: programs that the block needs beside `TOOLS`, and their Debian packages.

    Raises:
        CannotMeasure: this machine lacks something; the message says what.
    """
    if problem := missing({**TOOLS, **further}, os.geteuid()):
        raise CannotMeasure(problem)
    with tempfile.TemporaryDirectory(prefix="buildah-") as name:
        folder = Path(name)
        state = ("--root", str(folder / "state"), "--runroot", str(folder / "run"))
        config, paths = _pip_settings()
        pip_conf = folder / "pip.conf"
        with pip_conf.open("w", encoding="utf-8") as file:
            config.write(file)
        buildah = Buildah(("buildah", "--storage-driver", "vfs", *state), folder, pip_conf, paths)
        try:
            yield buildah
        finally:
            buildah.run("rm", "--all")


def missing(tools: Mapping[str, str], user: int) -> str | None:
    """Return what a user with this id lacks, and the remedy; None if nothing.

    tools: program -> Debian package.
    """
    absent = dict.fromkeys(p for tool, p in tools.items() if shutil.which(tool) is None)
    remedies = ["become root"] if user != 0 else []
    if absent:
        remedies.append(f"`apt install {' '.join(absent)}`")
    if not remedies:
        return None
    return (
        f"containers on a clean Debian need root rights and {', '.join(tools)}: "
        f"{', and '.join(remedies)}."
    )


def run(*command: str) -> str:
    """Run a command and return what it prints.

    Raises:
        subprocess.CalledProcessError: it failed; its errors are on stderr.
    """
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _suite() -> str:
    release = platform.freedesktop_os_release()
    return release.get("VERSION_CODENAME", "stable") if release["ID"] == "debian" else "stable"


def _pip_settings() -> tuple[RawConfigParser, dict[str, str]]:
    """Return pip's configuration for containers, and what it names: path here -> path there."""
    config = RawConfigParser()
    config["global"] = {}
    mounts = {}
    certificates = ssl.get_default_verify_paths().cafile
    for line in run(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        section, value = section.strip(":").replace("env", "global"), ast.literal_eval(value)
        if key == "cert":
            certificates = value
            continue
        config.setdefault(section, {})
        config[section][key] = value
        for word in value.split():
            # The pages of an index link to files beside the index.
            path = str(Path(word[7:]).parent) if word.startswith("file:///") else word
            if Path(path).is_absolute() and Path(path).exists():
                mounts[path] = path
    if certificates and Path(certificates).exists():
        # Not at the same path: Debian's package of certificates could not be installed over it.
        mounts[certificates] = config["global"]["cert"] = _CERTIFICATES
    return config, mounts
