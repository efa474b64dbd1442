"""Checks of the machine before the environment is installed.

Each check takes the facts that it judges and returns a problem with its remedy, or None. The file
must parse on old Pythons, because it reports that a Python is too old.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

OLDEST = (3, 11)
NEWEST = (3, 14)
NEEDED_GB = {"cpu": 6, "cuda": 16}
"""Disk space while installing, in 10^9 bytes: unpacked packages plus the wheel being unpacked."""


def python_problem(version: tuple[int, ...]) -> str | None:
    """Judge a version (major, minor)."""
    if OLDEST <= version[:2] <= NEWEST:
        return None
    this = ".".join(str(number) for number in version[:2])
    supported = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
    return (
        f"Python {this} is not supported: vLLM needs {supported}. Install one "
        "(for example `apt install python3.12 python3.12-venv`, or from python.org) "
        "and run `make PYTHON=python3.12 ...`."
    )


def other_python() -> str | None:
    """Return the path of a supported interpreter on the PATH, the tested version first."""
    for name in ("python3.11", "python3.12", "python3.13"):
        path = shutil.which(name)
        if path:
            return path
    return None


def platform_problem(platform: str) -> str | None:
    """Judge a value of `sys.platform`."""
    if platform in ("linux", "darwin"):
        return None
    return f"vLLM does not run on '{platform}'. On Windows use WSL 2 with a Linux distribution."


def venv_problem() -> str | None:
    if all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        return None
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    return (
        f"{sys.executable} cannot create environments with pip: the module venv or ensurepip is "
        f"missing. On Debian and Ubuntu: `apt install {name}`."
    )


def disk_problem(folder: Path, extra: str, free_bytes: int) -> str | None:
    free_gb = free_bytes / 1e9
    if free_gb >= NEEDED_GB[extra]:
        return None
    return (
        f"{folder} has {free_gb:.1f} GB free and the installation needs {NEEDED_GB[extra]} GB. "
        "Free some space, or choose another place: `make VENV=/elsewhere/venv ...`."
    )


def compiler_warning() -> str | None:
    """Warn if a C++ compiler or Python's headers are missing: kernels are compiled on first use."""
    missing = []
    if not (shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")):
        missing.append("a C++ compiler")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        missing.append("Python.h")
    if not missing:
        return None
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    remedy = (
        "`xcode-select --install`"
        if sys.platform == "darwin"
        else f"`apt install g++ {version}-dev`, `dnf install gcc-c++ python3-devel` or the like"
    )
    return f"{' and '.join(missing)} not found: the server compiles kernels on first use. {remedy}."


def has_nvidia_gpu() -> bool:
    """Return whether the driver lists a GPU; nvidia-smi may be installed without one."""
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        listing = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listing.returncode == 0 and "GPU " in listing.stdout
