"""Write an adapter's two files within a limit of bytes: both, or neither."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.disk import store_errors
from adapters.errors import SourceError
from adapters.files import CHUNK, CONFIG, WEIGHTS
from composer.errors import quoted

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(slots=True)
class Allowance:
    """The number of bytes that may be read from `source`, counted as they arrive."""

    source: str
    max_bytes: int
    taken: int = 0

    def take(self, count: int) -> None:
        """Count bytes. Raises SourceError: more than allowed."""
        self.taken += count
        if self.taken > self.max_bytes:
            raise SourceError(
                f"{quoted(self.source)} holds more than the {self.max_bytes} bytes allowed. "
                "Give a smaller adapter, or raise the server's limit on the size of adapters."
            )


class CountedFile(io.RawIOBase):
    """A writable file on an open descriptor, within an allowance.

    Raises:
        SourceError: the allowance is used up. AdapterStoreError: the disk is full or fails.
    """

    def __init__(self, descriptor: int, allowance: Allowance) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._allowance = allowance

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of `data`, in as many system calls as needed."""
        view = memoryview(data).cast("B")
        self._allowance.take(len(view))
        with store_errors(f"write {quoted(self._allowance.source)}", writing=True):
            written = 0
            while written < len(view):
                written += os.write(self._descriptor, view[written:])
        return len(view)


@contextmanager
def new_file(folder: Path, name: str, allowance: Allowance) -> Iterator[CountedFile]:
    """Create a file of mode 0600; remove it if the block fails."""
    path = folder / name
    with store_errors(f"write {quoted(allowance.source)}", writing=True):
        descriptor = os.open(path, _NEW, 0o600)
    try:
        yield CountedFile(descriptor, allowance)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


@contextmanager
def both_or_none(folder: Path) -> Iterator[None]:
    """Remove both files if the block fails.

    Raises:
        FileExistsError: one of them exists already.
    """
    for name in (CONFIG, WEIGHTS):
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name} exists already; give an empty folder")
    try:
        yield
    except BaseException:
        for name in (CONFIG, WEIGHTS):
            (folder / name).unlink(missing_ok=True)
        raise


def copy(read: Callable[[int], bytes], file: CountedFile) -> None:
    """Write what `read(size)` returns until it returns nothing."""
    while chunk := read(CHUNK):
        file.write(chunk)
