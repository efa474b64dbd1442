"""Locks and durable writes: what the store asks of the operating system. POSIX only.

Locks are flock(2): a lock belongs to an open file, so it excludes threads as well as processes and
ends with its process however that ends. Linux passes locks on to the server of an NFS mount.
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
"""Numbers of the errors for a full disk, an exhausted quota and a file that is too large."""

_DENIED = frozenset({errno.EACCES, errno.EPERM})

READ_ONLY_REMEDY = (
    "Make the change through a server that may write to it, or give this one's user write access "
    "to the folder of --adapter-store."
)


@contextmanager
def store_errors(
    action: str, remedy: str = "Check its space and permissions.", *, writing: bool = False
) -> Iterator[None]:
    """Turn every `OSError` of the block into an `AdapterStoreError`.

    Args:
        action: what the block does, as in "the store cannot {action}".
        remedy: what to do about it, unless the error itself suggests something better.
        writing: whether missing permissions mean that the store is read-only.
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
    """Return the `AdapterStoreError` for an `OSError`; arguments as of `store_errors`."""
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
    """Wait for the lock of `file` and hold it. Not reentrant: a thread that locks twice hangs.

    A shared lock needs no permission to write. If the lock file neither exists nor can be made,
    this machine never wrote to the store, and readers go on without a lock.

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
    """Create `file` if needed, lock it, and return the descriptor to pass to `release`."""
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
    """Lock `file` without waiting; return None if another process or thread holds the lock."""
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
    """Flush a file, or the names in a folder, so that they survive a power failure.

    On macOS, fsync(2) does not flush the cache of the drive.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents durably; the folder may exist."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`; one call of pwrite(2) may write only a part."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
