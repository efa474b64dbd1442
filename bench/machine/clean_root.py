"""A clean Debian root with chosen packages, in which commands run as an ordinary user.

Needs root, `mmdebstrap` and `buildah`. The machine's access to package indexes (pip's
configuration, the folders and files that it names, certificates, proxies) is mounted read-only at
the same paths.
"""

from __future__ import annotations

import ast
import os
import platform
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from configparser import RawConfigParser
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zoo

TOOLS = ("mmdebstrap", "buildah")
USER = "someone"
HOME = Path("/home", USER)
SOURCE = HOME / "source"
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class CleanRoot:
    """A root filesystem as a buildah container.

    `buildah` is the command with its state folders, `container` the name of the root, and `options`
    are the options of `buildah run` that mount what the root may see of this machine.
    """

    buildah: tuple[str, ...]
    container: str
    options: tuple[str, ...]

    def run(self, script: str, *, timeout_s: float, user: str = USER) -> tuple[int, list[str]]:
        """Run a shell script in `SOURCE`; return its exit status and its output lines.

        Prints the lines as they arrive. After `timeout_s` the script is ended, with status 124.
        """
        command = [
            *(*self.buildah, "run", "--isolation", "chroot", "--user", user, *self.options),
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
        RuntimeError: this machine lacks something; the message says what.
        subprocess.CalledProcessError: mmdebstrap or buildah failed.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        raise RuntimeError(
            "a clean Debian root needs root rights, mmdebstrap and buildah: "
            f"become root, and `apt install {' '.join(TOOLS)}`."
        )
    with tempfile.TemporaryDirectory(prefix="clean-root-") as name:
        folder = Path(name)
        system, source = folder / "system.tar", folder / "source.tar"
        include = f"--include={','.join(packages)}"
        _run("mmdebstrap", "--quiet", "--variant=minbase", include, _suite(), str(system))
        _pack_source(source)
        state = ("--root", str(folder / "state"), "--runroot", str(folder / "run"))
        buildah = ("buildah", "--storage-driver", "vfs", *state)
        container = _run(*buildah, "from", "scratch").strip()
        try:
            _run(*buildah, "add", "--quiet", container, str(system), "/")
            system.unlink()
            _run(*buildah, "add", "--quiet", container, str(source), str(SOURCE))
            root = CleanRoot(buildah, container, tuple(_options(folder / "pip.conf")))
            status, _ = root.run(
                f"useradd --no-create-home {USER} && chown -R {USER}: {HOME}",
                timeout_s=60,
                user="root",
            )
            if status != 0:
                raise RuntimeError(f"useradd ended with status {status} in the clean root")
            yield root
        finally:
            _run(*buildah, "rm", container)


def _suite() -> str:
    """Return this machine's release if it runs Debian, else Debian's stable one."""
    release = platform.freedesktop_os_release()
    return release.get("VERSION_CODENAME", "stable") if release["ID"] == "debian" else "stable"


def _pack_source(archive: Path) -> None:
    names = _run("git", "-C", str(zoo.PROJECT), "ls-files", "-z").split("\0")
    with tarfile.open(archive, "w") as packed:
        for name in names:
            if (
                name and (zoo.PROJECT / name).exists()
            ):  # deleted files are still tracked until the commit
                packed.add(zoo.PROJECT / name, name)


def _options(pip_conf: Path) -> Iterator[str]:
    """Yield options that mount what installing Python packages needs of this machine."""
    config = RawConfigParser()
    config["global"] = {}
    paths = {ssl.get_default_verify_paths().cafile}
    for line in _run(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        section, value = section.strip(":").replace("env", "global"), ast.literal_eval(value)
        config.setdefault(section, {})
        config[section][key] = value
        for word in value.split():
            # The pages of an index link to files beside the index.
            paths.add(str(Path(word[7:]).parent) if word.startswith("file:///") else word)
    with pip_conf.open("w", encoding="utf-8") as file:
        config.write(file)
    yield from ("--volume", f"{pip_conf}:/etc/pip.conf:ro")
    for path in sorted(path for path in paths if path and Path(path).is_absolute()):
        if Path(path).exists():
            yield from ("--volume", f"{path}:{path}:ro")
    for name in _PROXIES:
        if name in os.environ:
            yield from ("--env", f"{name}={os.environ[name]}")


def _run(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
