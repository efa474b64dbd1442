"""The folder of a result, which appears when it is complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.errors import MergeError

_REMEDY = "Name a folder that does not exist yet, or an empty one."


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output` to write into; it takes the name `output` when all went well.

    Checked before and after the work: nothing is ever overwritten, and after a failure `output` is
    as it was.

    Raises:
        MergeError: `output` is a file, or a folder with something in it.
    """
    target = output.resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise MergeError(f"'{output}' exists already. {_REMEDY}", param="output")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        staging.chmod(0o755)
        yield staging
        for path in (*staging.iterdir(), staging):
            _flush(path)
        try:
            staging.rename(target)  # replaces an empty folder, and nothing else
        except OSError as error:
            if not target.exists():
                raise
            raise MergeError(f"'{output}' was made meanwhile ({error}). {_REMEDY}") from None
        _flush(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
