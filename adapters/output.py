"""Where the command line puts its results: a folder that appears when it is whole; tables."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

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


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """Shows steps done, steps in all, and the last one's name; nothing if stderr is no terminal."""
    with tqdm(disable=None, unit="tensor", leave=False, dynamic_ncols=True) as bar:

        def step(done: int, total: int, name: str) -> None:
            bar.total = total
            bar.set_postfix_str(name, refresh=False)
            bar.update(done - bar.n)

        yield step


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """The first column is aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([f"{first:{widths[0]}}", *cells]).rstrip())


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Names and values, both aligned left."""
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        print(f"{name:{width}}  {value}".rstrip())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
