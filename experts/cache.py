"""The cache folder, and downloads of pinned packages into it with the user's own pip."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
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


def verify(file: Path, sha256: str) -> None:
    """Raise ChecksumMismatch unless a file has this checksum."""
    with file.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != sha256:
        raise ChecksumMismatch(
            f"{file.name} has the sha256 {actual}, not {sha256}: "
            "the package index offers another file under this name, so it is not used"
        )
