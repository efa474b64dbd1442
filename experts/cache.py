"""The cache folder, and downloads of pinned packages into it with the user's own pip."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


class PackageUnavailable(Exception):
    """No package index that pip is configured for offers a package, or none can be reached."""


class ChecksumMismatch(Exception):
    """A downloaded file is not the one whose checksum the project pins."""


@dataclass(frozen=True)
class Package:
    """A file of a package index: what pip calls it, how large it is, and what must be in it."""

    requirement: str  # NAME==VERSION
    sha256: str
    megabytes: int
    source: bool = False  # the source distribution, not the wheel


@dataclass(frozen=True)
class DebianPackage:
    """A package of Debian for all architectures, as `apt-get download` names it."""

    requirement: str  # NAME=VERSION
    sha256: str


def cache_folder() -> Path:
    """Return `$COMPOSER_CACHE`, else `composer` in the user's cache folder (XDG)."""
    if folder := os.environ.get("COMPOSER_CACHE"):
        return Path(folder).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "composer"


def download(package: Package, folder: Path) -> Path:
    """Download a package into an empty folder; return its file.

    On a terminal pip shows its progress; else one line says what is being downloaded. Both go to
    stderr.

    Raises:
        PackageUnavailable: pip could not get the package.
        ChecksumMismatch: what pip got is something else.
    """
    terminal = sys.stderr.isatty()
    if not terminal:
        print(f"downloading {package.requirement} ({package.megabytes} MB)", file=sys.stderr)
    kind = ("--no-binary", ":all:") if package.source else ("--only-binary", ":all:")
    pip = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--no-input", "--no-deps", *kind),
            *("--dest", str(folder), package.requirement),
        ],
        stdout=sys.stderr if terminal else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    if pip.returncode != 0:
        last = (pip.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise PackageUnavailable(
            f"{package.requirement} cannot be downloaded: {last} "
            "(check the network and `pip config list`)"
        )
    [file] = folder.iterdir()
    verify(file, package.sha256)
    return file


def downloaded(package: Package) -> Path:
    """Return a package's file from the cache; download it if necessary."""
    folder = cache_folder() / package.requirement
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            made = Path(temporary) / "file"
            made.mkdir()
            download(package, made)
            _keep(made, folder)
    [file] = folder.iterdir()
    return file


def unpacked(package: DebianPackage) -> Path:
    """Return the folder of a Debian package's files; download it if necessary.

    Raises:
        PackageUnavailable: this is not Debian, or its archive cannot be reached.
        ChecksumMismatch: apt got another file.
    """
    folder = cache_folder() / package.requirement
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            made = Path(temporary) / "files"
            try:
                _run("apt-get", "download", package.requirement, folder=temporary)
                [file] = Path(temporary).glob("*.deb")
                verify(file, package.sha256)
                _run("dpkg-deb", "-x", file.name, made.name, folder=temporary)
            except (OSError, subprocess.CalledProcessError) as error:
                raise PackageUnavailable(
                    f"{package.requirement} cannot be downloaded: {error} (it is a package of "
                    "Debian; on Debian, `apt-get update` may help)"
                ) from error
            _keep(made, folder)
    return folder


def _run(*command: str, folder: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)


def _keep(made: Path, folder: Path) -> None:
    """Rename a complete folder, unless another process was faster."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def verify(file: Path, sha256: str) -> None:
    """Raise ChecksumMismatch unless a file has this checksum."""
    with file.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != sha256:
        raise ChecksumMismatch(
            f"{file.name} has the sha256 {actual}, not {sha256}: "
            "the package index offers another file under this name, so it is not used"
        )
