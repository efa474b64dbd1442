"""The claim `compat`: what composition changes, reads and imports in vLLM is there."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from bench.claim import Result
from bench.measure import show, table
from composer.vllm.releases import SUPPORTED, installed_release
from composer.vllm.seams.breaks import TABLES, breaks, changed, read
from composer.vllm.seams.imports import missing_imports

PROJECT = Path(__file__).resolve().parent.parent.parent


def measure() -> Result:
    """Return the number of seams that do not resolve in the installed vLLM.

    The other supported releases are downloaded, and must have none either; one that cannot be had
    is shown as such.
    """
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    installed = installed_release()
    missing = {name: list(breaks(package, name)) for name in TABLES}
    missing["imports"] = list(missing_imports(package))
    files = {name: len({*changed(name), *read(name)}) for name in TABLES}
    header = ("seams", "files of vLLM", f"differences in {installed}")
    rows = [(name, files.get(name, "all"), len(lines)) for name, lines in missing.items()]
    show("\n".join([table(header, rows), *(line for lines in missing.values() for line in lines)]))
    others = {release: _compare(release) for release in SUPPORTED if release != installed}
    holds = installed in SUPPORTED and 1 not in others.values()
    return Result(sum(map(len, missing.values())), holds=holds)


def _compare(release: str) -> int:
    """Show what another release changes; return the exit status of `scripts.compat`."""
    command = [sys.executable, "-m", "scripts.compat", release]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=False)
    show(f"\n{release}:\n{done.stdout}" if done.returncode != 2 else f"{release}: cannot be had")
    return done.returncode
