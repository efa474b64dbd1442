"""System libraries and programs that the pinned packages need and no wheel contains.

`LIBRARIES` was read from the wheels: the NEEDED entries of their extension modules, without those
that the wheels contain and without glibc.
"""

from __future__ import annotations

import ctypes
import platform
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

LIBRARIES = {
    "cpu": ("libstdc++.so.6", "libgcc_s.so.1", "libz.so.1", "libnuma.so.1"),
    "cuda": ("libstdc++.so.6", "libgcc_s.so.1", "libz.so.1"),
}
"""Build of vLLM -> libraries, on Linux; macOS has its own. vLLM's CPU kernels need `libnuma`."""

OLDEST_GLIBC = (2, 28)
"""Oldest supported glibc: the wheels of vLLM and torch are built for `manylinux_2_28`."""

PACKAGES = {
    "apt": {
        "libstdc++.so.6": "libstdc++6",
        "libgcc_s.so.1": "libgcc-s1",
        "libz.so.1": "zlib1g",
        "libnuma.so.1": "libnuma1",
        "curl": "curl",
    },
    "dnf": {
        "libstdc++.so.6": "libstdc++",
        "libgcc_s.so.1": "libgcc",
        "libz.so.1": "zlib",
        "libnuma.so.1": "numactl-libs",
        "curl": "curl",
    },
}
"""Package manager -> missing library or program -> its package."""


def libc_problem(name: str, version: str) -> str | None:
    """Judge `platform.libc_ver()` on Linux, where both values are empty with musl."""
    if name != "glibc":
        return (
            "this Linux has no glibc (Alpine has musl), and vLLM has no packages for it. Use a "
            "distribution with glibc, for example Debian, Ubuntu or Fedora."
        )
    if tuple(map(int, version.split(".")[:2])) < OLDEST_GLIBC:
        oldest = ".".join(map(str, OLDEST_GLIBC))
        return (
            f"glibc {version} is too old: the packages of vLLM and torch need {oldest} or newer, "
            "as in Debian 11, Ubuntu 20.04 and RHEL 8 or later."
        )
    return None


def missing_libraries(names: Iterable[str]) -> list[str]:
    """Return the sonames in `names` that the dynamic loader does not find."""
    missing = []
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(name)
    return missing


def problem(extra: str, *, dev: bool) -> str | None:
    """Return what this machine lacks for the build `extra` and, with `dev`, the tests; or None."""
    if sys.platform == "linux":
        if libc := libc_problem(*platform.libc_ver()):
            return libc
        missing = missing_libraries(LIBRARIES[extra])
    else:
        missing = []
    if dev and shutil.which("curl") is None:
        missing.append("curl")
    return explain(missing, distribution()) if missing else None


def explain(missing: Iterable[str], names: set[str]) -> str:
    """Name what is missing, and how to install it on a distribution with these `names`."""
    listed = " and ".join(
        f"{name} (the tests run the README's requests)" if name == "curl" else name
        for name in missing
    )
    manager = "apt" if "debian" in names else "dnf" if names & {"fedora", "rhel"} else None
    if manager:
        packages = " ".join(PACKAGES[manager][name] for name in missing)
        remedy = f"Install with `{manager} install {packages}`"
    else:
        packages = " ".join(PACKAGES["apt"][name] for name in missing)
        remedy = f"Install your distribution's packages (on Debian and Ubuntu: {packages})"
    return f"not found on this machine: {listed}. {remedy}, then run the same command again."


def distribution(release: Path = Path("/etc/os-release")) -> set[str]:
    """Return ID and ID_LIKE of the Linux distribution, for example {"ubuntu", "debian"}."""
    try:
        lines = release.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    return {word for key in ("ID", "ID_LIKE") for word in fields.get(key, "").strip("\"'").split()}
