"""The libraries of the pages are the packages that the manifest names."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from importlib.resources import files
from pathlib import Path

import pytest

VENDOR = Path(str(files("server"))) / "page" / "vendor"
MANIFEST = json.loads((VENDOR / "manifest.json").read_text())


def as_packed(entry: dict[str, object]) -> bytes:
    """Return a vendored file as its package has it."""
    data = (VENDOR / str(entry["file"])).read_text()
    replaced = entry.get("replaced", {})
    assert isinstance(replaced, dict)
    for before, after in replaced.items():
        data = data.replace(after, before)
    return data.encode()


def test_every_file_is_what_the_manifest_says() -> None:
    libraries = {path.name for path in VENDOR.iterdir()} - {"manifest.json", "LICENSES.txt"}
    assert {entry["file"] for entry in MANIFEST} == libraries
    for entry in MANIFEST:
        assert hashlib.sha256(as_packed(entry)).hexdigest() == entry["sha256"], entry["file"]
    licences = (VENDOR / "LICENSES.txt").read_text()
    for entry in MANIFEST:
        assert entry["package"] in licences


@pytest.mark.long
def test_the_packages_hold_the_same_files(tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("there is no npm on the PATH, which fetches the packages")
    for name, version in {(entry["package"], entry["version"]) for entry in MANIFEST}:
        subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=tmp_path, check=True)
    for entry in MANIFEST:
        archive = tmp_path / f"{entry['package']}-{entry['version']}.tgz"
        with tarfile.open(archive) as packed:
            file = packed.extractfile(f"package/{entry['path']}")
            assert file is not None
            assert file.read() == as_packed(entry), entry["file"]
