"""The journal of a store: an append-only file of every change of adapters and stored compositions.

The journal is state, history and audit log at once. Each line is one JSON object: a
`CompositionVersion` if it has the field `composition`, else a `Version`. The number of a line is a
position: a process that has read a position knows all changes up to it.

* Writers hold an exclusive lock, readers a shared one, so nobody reads a line that a failing writer
  removes again.
* A line counts once its line feed is on disk. The incomplete line of a killed writer is never read,
  and the next writer truncates it. A complete line that cannot be read is damage: an error.
* A failed append leaves the file unchanged.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, TypeVar

from adapters.disk import locked, store_errors, sync, write_all
from adapters.errors import AdapterStoreError
from adapters.store.composition_version import CompositionVersion
from adapters.store.version import Version

Entry: TypeAlias = Version | CompositionVersion
_Entry = TypeVar("_Entry", Version, CompositionVersion)


class Journal:
    """One process's view of the file. Queries read memory without a lock; see `refresh`."""

    def __init__(self, file: Path, lock: Path) -> None:
        """Read the file. Raises `AdapterStoreError`: it cannot be read."""
        self._file = file
        self._lock = lock
        self._mutex = threading.Lock()  # guards everything below against other threads
        # Both mappings are replaced, never changed in place.
        self._histories: Mapping[str, tuple[Version, ...]] = {}
        self._compositions: Mapping[str, tuple[CompositionVersion, ...]] = {}
        self._count = 0  # lines read
        self._offset = 0  # bytes read, complete lines only
        self._last = b""  # the last line read
        self._seen: tuple[int, ...] | None = None  # signature of the file at the last read
        self._unreported: list[Entry] = []  # read, but not yet returned by `refresh`
        self.followed = 0
        """The position up to which all changes are known and `refresh` has returned those of other
        processes."""

        with self._mutex, locked(lock, shared=True):
            self._read()
            self._unreported.clear()
            self.followed = self._count

    @staticmethod
    def create(file: Path) -> None:
        """Create an empty journal durably. The caller holds the lock."""
        with store_errors(f"make {file}"):
            file.touch()
            sync(file)
            sync(file.parent)

    def aliases(self) -> tuple[str, ...]:
        """Return every alias that ever existed."""
        return tuple(self._histories)

    def history(self, alias: str) -> tuple[Version, ...]:
        """Return all versions of the alias, oldest first."""
        return self._histories.get(alias, ())

    def compositions(self) -> tuple[str, ...]:
        """Return the name of every composition that ever existed."""
        return tuple(self._compositions)

    def composition_history(self, name: str) -> tuple[CompositionVersion, ...]:
        """Return all versions of the composition, oldest first."""
        return self._compositions.get(name, ())

    def refresh(self) -> tuple[Entry, ...]:
        """Read what other processes appended, and return it once.

        Costs one stat(2) if nothing changed.
        """
        with store_errors(f"read {self._file}"):
            changed = _signature(self._file.stat()) != self._seen
        if not changed and not self._unreported:
            return ()
        with self._mutex:
            if changed:
                with locked(self._lock, shared=True):
                    self._read()
            new = tuple(self._unreported)
            self._unreported.clear()
            self.followed = self._count
        return new

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Exclude every other writer, in any process, and read what they wrote."""
        with self._mutex, locked(self._lock):
            self._read()
            yield

    def append(self, entry: _Entry) -> _Entry:
        """Number an entry, write it to disk and return it. The caller is in `writing`.

        Raises:
            AdapterStoreError: it could not be written; the file is unchanged.
        """
        number = len(self._history_of(entry)) + 1
        entry = replace(entry, sequence=self._count + 1, number=number)
        text = json.dumps(entry.to_json(), allow_nan=False, separators=(",", ":"))
        _entry(json.loads(text))  # an unreadable line must not be written
        line = text.encode() + b"\n"
        seen = self._write(line)
        (written,) = self._take(line)
        self._seen = seen
        if not self._unreported:
            self.followed = self._count
        assert isinstance(written, type(entry))
        return written

    def _write(self, line: bytes) -> tuple[int, ...]:
        action = f"append to {self._file}"
        with store_errors(action, "The change did not happen.", writing=True):
            descriptor = os.open(self._file, os.O_RDWR | os.O_CLOEXEC)
            try:
                if os.fstat(descriptor).st_size > self._offset:  # an incomplete line
                    os.ftruncate(descriptor, self._offset)
                write_all(descriptor, line, self._offset)
                os.fsync(descriptor)
                return _signature(os.fstat(descriptor))
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(descriptor, self._offset)
                    os.fsync(descriptor)
                raise
            finally:
                os.close(descriptor)

    def _read(self) -> None:
        """Read the lines since the last call. The caller holds the mutex and the lock."""
        with store_errors(f"read {self._file}"), self._file.open("rb") as file:
            seen = _signature(os.fstat(file.fileno()))
            file.seek(self._offset - len(self._last))
            last = file.read(len(self._last))
            data = file.read()
        if last != self._last:
            raise AdapterStoreError(
                f"{self._file} was replaced: line {self._count} is not what this process read "
                "there. Put the file back, or restart the server to accept it as it is."
            )
        complete = data[: data.rfind(b"\n") + 1]
        self._unreported += self._take(complete)
        # A writer truncates an incomplete line, maybe without changing size or time.
        self._seen = seen if complete == data else None

    def _take(self, data: bytes) -> list[Entry]:
        """Parse complete lines and add all of them to the histories, or none if one is damaged."""
        if not data:
            return []
        lines = data.split(b"\n")[:-1]
        entries = [self._parse(line, n) for n, line in enumerate(lines, start=self._count + 1)]
        versions = [entry for entry in entries if isinstance(entry, Version)]
        compositions = [entry for entry in entries if isinstance(entry, CompositionVersion)]
        histories = self._grown(self._histories, versions, lambda version: version.alias)
        compositions_by_name = self._grown(
            self._compositions, compositions, lambda version: version.name
        )
        self._histories, self._compositions = histories, compositions_by_name
        self._count += len(lines)
        self._offset += len(data)
        self._last = lines[-1] + b"\n"
        return entries

    def _grown(
        self,
        histories: Mapping[str, tuple[_Entry, ...]],
        entries: Iterable[_Entry],
        name_of: Callable[[_Entry], str],
    ) -> Mapping[str, tuple[_Entry, ...]]:
        """Return the histories with further entries, whose numbers must continue without gaps."""
        grown: dict[str, list[_Entry]] = {}
        for entry in entries:
            name = name_of(entry)
            history = grown.setdefault(name, list(histories.get(name, ())))
            if entry.number != len(history) + 1:
                raise self._damaged(
                    entry.sequence,
                    f"it is version {entry.number} of a name at {len(history)}",
                )
            history.append(entry)
        return {**histories, **{name: tuple(history) for name, history in grown.items()}}

    def _history_of(self, entry: Entry) -> tuple[Entry, ...]:
        if isinstance(entry, Version):
            return self.history(entry.alias)
        return self.composition_history(entry.name)

    def _parse(self, line: bytes, sequence: int) -> Entry:
        try:
            entry = _entry(json.loads(line))
        except (ValueError, RecursionError, AdapterStoreError) as error:
            raise self._damaged(sequence, str(error).removesuffix(".")) from error
        if entry.sequence != sequence:
            raise self._damaged(sequence, f"it says that it is line {entry.sequence}")
        return entry

    def _damaged(self, line: int, problem: str) -> AdapterStoreError:
        return AdapterStoreError(
            f"line {line} of {self._file} is damaged: {problem}. "
            "Restore the file from a copy; it is the record of all that is served."
        )


def _entry(value: object) -> Entry:
    """Read a line. Raises `AdapterStoreError`."""
    if not isinstance(value, dict):
        raise ValueError("it is not an object with the fields of a change")
    return (
        CompositionVersion.from_json(value) if "composition" in value else Version.from_json(value)
    )


def _signature(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
