"""lm-evaluation-harness in an environment of its own, which the project's environment never sees.

It borrows the packages of the project's environment by a `.pth` file, so that torch, transformers
and others are not downloaded a second time.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from filelock import FileLock

import zoo
from experts.cache import PackageUnavailable, cache_folder

LOCK = zoo.PROJECT / "requirements" / "lm-eval.lock"


def lm_eval_command() -> Path:
    """Return the command `lm_eval`; make its environment in the cache if it does not exist.

    Raises:
        PackageUnavailable: pip could not install the packages of requirements/lm-eval.lock.
    """
    project = sysconfig.get_path("purelib")
    digest = hashlib.sha256(LOCK.read_bytes() + project.encode()).hexdigest()[:12]
    folder = cache_folder() / f"lm-eval-{digest}"
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": folder}))
    borrowed = packages / "project.pth"  # written last: the environment is complete
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not borrowed.exists():
            venv.create(folder, clear=True, symlinks=True)
            _install(folder / "bin" / "python")
            borrowed.write_text(f"{project}\n", encoding="utf-8")
    return folder / "bin" / "lm_eval"


def _install(python: Path) -> None:
    print(f"installing {LOCK.name} in {python.parent.parent}", file=sys.stderr, flush=True)
    pip = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(python), "install"),
            *("--quiet", "--no-input", "--no-deps", "-r", str(LOCK)),
        ],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if pip.returncode != 0:
        last = (pip.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise PackageUnavailable(
            f"{LOCK.name} cannot be installed: {last} (check the network and `pip config list`)"
        )
