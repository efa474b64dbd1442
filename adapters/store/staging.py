"""Private folders for unfinished content, on the file system of the store.

    staging/<random>/lock             held by the owning process as long as it lives
    staging/<random>/files/           the files that the owner writes
    staging/<random>/uses-<digest>    the owner is about to publish this content: `prune` keeps it

Whether an owner lives is decided by its lock, not by a clock or a process table, so it is right for
owners on other machines too. Folders are created and swept under the lock of the store, so a sweep
never sees a folder that its owner has not locked yet.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from adapters.disk import acquire, locked, release, store_errors, try_acquire

_PIN = "uses-"


class Staging:
    """The staging folder of a store."""

    def __init__(self, root: Path, lock: Path) -> None:
        self._root = root
        self._lock = lock

    @contextmanager
    def open(self) -> Iterator[Path]:
        """Yield a new private folder and remove it at the end.

        The caller does not hold the lock of the store.

        Raises:
            AdapterStoreError: the folder cannot be made.
        """
        folder = self._root / secrets.token_hex(16)
        with store_errors(f"make {folder}", writing=True), locked(self._lock):
            folder.mkdir(mode=0o700)
            descriptor = acquire(folder / "lock")
        try:
            with store_errors(f"make {folder}", writing=True):
                (folder / "files").mkdir()
            yield folder / "files"
        finally:
            _remove(folder)
            release(descriptor)

    def scratch(self, inside: Path) -> Path:
        """Create a folder that lives as long as the staging folder around `inside`.

        Raises:
            ValueError: `inside` is not in a staging folder.
        """
        folder = self._owner(inside) / f"scratch-{secrets.token_hex(8)}"
        folder.mkdir()
        return folder

    def pin(self, inside: Path, digest: str) -> None:
        """Keep a content from `prune` until the staging folder around `inside` is removed.

        The caller holds the lock of the store, so that `prune` does not run meanwhile.
        """
        (self._owner(inside) / f"{_PIN}{digest}").touch()

    def pinned(self) -> frozenset[str]:
        """Return the digests that living owners use. The caller holds the lock of the store."""
        names = (pin.name.removeprefix(_PIN) for pin in self._root.glob(f"*/{_PIN}*"))
        return frozenset(names)

    def sweep(self) -> None:
        """Remove the folders of dead owners. The caller does not hold the lock of the store.

        Raises:
            AdapterStoreError: the folder cannot be read.
        """
        with ExitStack() as held:
            dead = []
            with store_errors(f"sweep {self._root}", writing=True), locked(self._lock):
                for folder in self._root.iterdir():
                    # Its owner may be removing it at this moment.
                    with suppress(FileNotFoundError, NotADirectoryError):
                        descriptor = try_acquire(folder / "lock")
                        if descriptor is not None:
                            held.callback(release, descriptor)
                            dead.append(folder)
            for folder in dead:
                _remove(folder)

    def _owner(self, inside: Path) -> Path:
        below = inside.resolve().relative_to(self._root).parts
        if not below:
            raise ValueError(f"{inside} is the folder of all staging folders, not one of them")
        return self._root / below[0]


def _remove(folder: Path) -> None:
    # Whatever cannot be removed now is swept at the next start.
    shutil.rmtree(folder, ignore_errors=True)
