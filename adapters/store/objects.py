"""The content of adapters, each in a folder that is named by its digest and never changes.

    objects/<digest>/adapter_config.json, adapter_model.safetensors
    objects/<digest>/generation.json        inspection report, origin and sizes; not in the digest

A folder appears in one rename(2), after all of it is on disk: it is complete or not there.
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
_AGAIN = "Publish the adapter again from its source; that mends it"

_Signature = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """An adapter in the store: its content, what inspection found, and where it came from."""

    digest: str
    path: Path
    report: Report
    origin: Mapping[str, object]


class Objects:
    """The folder of all objects. Needs no lock, but `remove` does."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._verified: dict[str, _Signature] = {}  # what the content looked like when it was right

    def names(self) -> frozenset[str]:
        """The digests of all objects."""
        return frozenset(path.name for path in self._root.iterdir() if DIGEST.fullmatch(path.name))

    def path(self, digest: str) -> Path:
        """The folder of the object. Raises `AdapterNotFoundError` where there is none."""
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

        An object that is there stays as it is, unless it is damaged: then it is mended. `scratch`
        is an empty folder of the caller.

        Raises:
            AdapterStoreError: the disk refuses; there is no new object then.
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
        """The object, if its files have the sizes that they should have.

        Raises:
            AdapterNotFoundError: there is no such object.
            AdapterStoreError: it is damaged.
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
            self.path(digest)  # it may have been pruned meanwhile
            raise _damaged(path, str(error)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path, f"{GENERATION} cannot be read ({error!r})") from error

    def verify(self, digest: str) -> None:
        """Compare the content with its digest, unless that was done since it was last written.

        Raises:
            AdapterNotFoundError: there is no such object.
            AdapterStoreError: it is damaged.
        """
        path = self.load(digest).path
        with store_errors(f"read {path}"):
            signature = _signature(path)
            if self._verified.get(digest) == signature:
                return
            with (path / WEIGHTS).open("rb") as weights:
                size = os.fstat(weights.fileno()).st_size
                found = digest_of((path / CONFIG).read_bytes(), weights, size)
        if found != digest:
            raise _damaged(path, f"its content has the digest {found}")
        self._verified[digest] = signature

    def remove(self, digests: Iterable[str], scratch: Path) -> None:
        """Move objects out of the store, into a folder that the caller removes."""
        for digest in digests:
            (self._root / digest).rename(scratch / digest)
            self._verified.pop(digest, None)
        sync(self._root)

    def _place(self, folder: Path, digest: str) -> bool:
        """Let `folder` be the object; False where a good one is there already."""
        target = self._root / digest
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            try:
                self.verify(digest)
            except AdapterStoreError:
                # File by file: whoever reads meanwhile finds each either damaged or good.
                for name in (*_CONTENT, GENERATION):
                    (folder / name).replace(target / name)
                sync(target)
            else:
                sync(self._root)  # whoever renamed it may not have come to this yet
                return False
        sync(self._root)
        return True


def check_plain_files(folder: Path, alias: str) -> None:
    """Refuse links in place of the content: what they lead to may change at any time."""
    for name in _CONTENT:
        if (folder / name).is_symlink():
            raise AdapterError(alias, None, f"{name} is a symbolic link", "Give the file itself")


def _damaged(path: Path, problem: str) -> AdapterStoreError:
    return AdapterStoreError(f"the stored adapter {path} is damaged: {problem}. {_AGAIN}.")


def _signature(folder: Path) -> _Signature:
    """Changes whenever one of the files is written or replaced."""
    stats = ((folder / name).stat() for name in _CONTENT)
    return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in stats)
