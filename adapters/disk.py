"""Locks and durable writes: what the store asks of the operating system. POSIX only.

Locks are flock(2): they belong to an open file, so they exclude threads as well as processes, and
end with their process however it ends. Linux passes them on to the server of an NFS mount.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.errors import AdapterStoreError, StoreFullError, StoreReadOnlyError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Numbers of the errors that say that there is no room for what is written."""

_DENIED = frozenset({errno.EACCES, errno.EPERM})

READ_ONLY_REMEDY = (
    "Make the change through a server that may write to it, or give this one's user write access "
    "to the folder of --adapter-store."
)


@contextmanager
def store_errors(
    action: str, remedy: str = "Check its space and permissions.", *, writing: bool = False
) -> Iterator[None]:
    """What the operating system refuses while we `action` becomes an `AdapterStoreError`.

    Args:
        action: what is being done, as in "the store cannot {action}".
        remedy: what to do about it, where nothing better is known.
        writing: whether missing permissions mean that the store cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise store_error(action, error, remedy, writing=writing) from error


def store_error(
    action: str,
    error: OSError,
    remedy: str = "Check its space and permissions.",
    *,
    writing: bool = False,
) -> AdapterStoreError:
    """The error for what the operating system refused; arguments as of `store_errors`."""
    if error.errno in FULL:
        return StoreFullError(
            f"the adapter store cannot {action}: {error}. Make room on the disk, for example with "
            "'composer adapters prune'; the change did not happen."
        )
    if error.errno == errno.EROFS or (writing and error.errno in _DENIED):
        return StoreReadOnlyError(
            f"the adapter store is read-only from here, so it cannot {action}: {error}. "
            f"{READ_ONLY_REMEDY}"
        )
    return AdapterStoreError(f"the adapter store cannot {action}: {error}. {remedy}")


@contextmanager
def locked(file: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of `file`, waiting for it. Not reentrant: a second one in a thread hangs.

    A shared lock needs no permission to write. Where there is no lock file and none can be made,
    nobody ever wrote from here, and readers do without.

    Raises:
        StoreReadOnlyError: the lock is exclusive, and the file cannot be written.
        AdapterStoreError: the file cannot be locked.
    """
    descriptor = None
    with store_errors(f"lock {file}", "Mount its file system with locks.", writing=not shared):
        try:
            descriptor = acquire(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        except OSError as error:
            unwritable = error.errno == errno.EROFS or error.errno in _DENIED
            if not (shared and unwritable and not file.exists()):
                raise
    try:
        yield
    finally:
        if descriptor is not None:
            release(descriptor)


def acquire(file: Path, kind: int = fcntl.LOCK_EX) -> int:
    """A descriptor that holds the lock of `file`, which is made if need be, until `release`."""
    # NFS wants the file writable for an exclusive lock, readable for a shared one.
    descriptor = _open_to_read(file) if kind & fcntl.LOCK_SH else None
    if descriptor is None:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, kind)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_to_read(file: Path) -> int | None:
    try:
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def try_acquire(file: Path) -> int | None:
    """The same, without waiting; None where another holds the lock."""
    try:
        return acquire(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def release(descriptor: int) -> None:
    """Unlock and close."""
    try:
        # A forked child may share the open file: closing our descriptor would not unlock it.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a power failure.

    On macOS as far as fsync(2) goes, which leaves out the cache of the drive.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make `folder` and what leads to it, durably; it may be there already."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`, which one call of pwrite(2) need not do."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
