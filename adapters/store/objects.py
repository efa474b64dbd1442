"""The contents of adapters, each in an immutable folder named by its digest.

    objects/<digest>/adapter_config.json, adapter_model.safetensors
    objects/<digest>/generation.json        report, origin and sizes; not part of the digest

A folder appears in one rename(2) after its files are on disk, so it is complete or does not exist.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from adapters.disk import store_errors, sync
from adapters.errors import AdapterError, AdapterNotFoundError, AdapterStoreError
from adapters.files import CONFIG, WEIGHTS
from adapters.inspection.float_scan import digest_of
from adapters.inspection.problems import Report
from adapters.store.version import DIGEST
from composer.errors import quoted

GENERATION = "generation.json"

_CONTENT = (CONFIG, WEIGHTS)
_AGAIN = "Publish the adapter again from its source to repair it"

_Signature = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """An adapter in the store: its folder, its inspection report and its origin."""

    digest: str
    path: Path
    report: Report
    origin: Mapping[str, object]


class Objects:
    """The folder of all contents. Only `remove` needs the lock of the store."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._verified: dict[str, _Signature] = {}  # digest -> signature of the verified files

    def names(self) -> frozenset[str]:
        """Return the digests of all contents."""
        return frozenset(path.name for path in self._root.iterdir() if DIGEST.fullmatch(path.name))

    def path(self, digest: str) -> Path:
        """Return the folder of a content. Raises `AdapterNotFoundError`."""
        path = self._root / digest
        if not DIGEST.fullmatch(digest) or not path.is_dir():
            raise AdapterNotFoundError(
                f"no adapter with the content {quoted(digest)} is stored: it was pruned, or never "
                "committed. Publish it from its source."
            )
        return path

    def add(
        self, source: Path, scratch: Path, report: Report, origin: Mapping[str, object]
    ) -> None:
        """Move the inspected files of `source` in; both folders are on the same file system.

        An existing content stays unchanged unless it is damaged, in which case it is repaired.
        `scratch` is an empty folder of the caller.

        Raises:
            AdapterStoreError: the files cannot be written; nothing was added.
        """
        with store_errors("store the adapter", writing=True):
            signature = _signature(source)
            for name in _CONTENT:
                (source / name).rename(scratch / name)
            sizes = {name: (scratch / name).stat().st_size for name in _CONTENT}
            text = {"report": report.to_json(), "origin": dict(origin), "sizes": sizes}
            (scratch / GENERATION).write_text(
                json.dumps(text, indent=2, allow_nan=False) + "\n", encoding="utf-8"
            )
            for name in (*_CONTENT, GENERATION):
                sync(scratch / name)
            sync(scratch)
            if self._place(scratch, report.digest):
                self._verified[report.digest] = signature

    def load(self, digest: str) -> StoredAdapter:
        """Return the content, after comparing the sizes of its files with the recorded ones.

        Raises:
            AdapterNotFoundError: the content does not exist.
            AdapterStoreError: the content is damaged.
        """
        path = self.path(digest)
        try:
            text = json.loads((path / GENERATION).read_bytes())
            sizes = {name: (path / name).stat().st_size for name in _CONTENT}
            if text["sizes"] != sizes:
                raise _damaged(path, f"its files have {sizes} bytes instead of {text['sizes']}")
            report = Report.from_json(text["report"])
            return StoredAdapter(digest, path, report, text["origin"])
        except OSError as error:
            self.path(digest)  # raises if it was pruned meanwhile
            raise _damaged(path, str(error)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path, f"{GENERATION} cannot be read ({error!r})") from error

    def verify(self, digest: str) -> None:
        """Compare the content with its digest, unless it was verified since its last change.

        Raises:
            AdapterNotFoundError: the content does not exist.
            AdapterStoreError: the content is damaged.
        """
        path = self.load(digest).path
        with store_errors(f"read {path}"):
            signature = _signature(path)
            if self._verified.get(digest) == signature:
                return
            with (path / WEIGHTS).open("rb") as weights:
                size = os.fstat(weights.fileno()).st_size
                present = digest_of((path / CONFIG).read_bytes(), weights, size)
        if present != digest:
            raise _damaged(path, f"its content has the digest {present}")
        self._verified[digest] = signature

    def remove(self, digests: Iterable[str], scratch: Path) -> None:
        """Move contents into `scratch`, which the caller removes. The caller holds the lock."""
        for digest in digests:
            (self._root / digest).rename(scratch / digest)
            self._verified.pop(digest, None)
        sync(self._root)

    def _place(self, folder: Path, digest: str) -> bool:
        """Move `folder` into place; return False if an undamaged content is there already."""
        target = self._root / digest
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            try:
                self.verify(digest)
            except AdapterStoreError:
                # File by file: concurrent readers see each file either damaged or repaired.
                for name in (*_CONTENT, GENERATION):
                    (folder / name).replace(target / name)
                sync(target)
            else:
                sync(self._root)  # the process that renamed it may not have synced yet
                return False
        sync(self._root)
        return True


def check_plain_files(folder: Path, alias: str) -> None:
    """Refuse links in place of the files: their targets may change at any time."""
    for name in _CONTENT:
        if (folder / name).is_symlink():
            raise AdapterError(alias, None, f"{name} is a symbolic link", "Give the file itself")


def _damaged(path: Path, problem: str) -> AdapterStoreError:
    return AdapterStoreError(f"the stored adapter {path} is damaged: {problem}. {_AGAIN}.")


def _signature(folder: Path) -> _Signature:
    """Return a value that changes whenever a file is written or replaced."""
    stats = ((folder / name).stat() for name in _CONTENT)
    return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in stats)
