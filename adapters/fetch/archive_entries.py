"""The members of a zip or tar archive, one after the other, without believing its headers.

Both formats are read through files that give at most 2 MiB at a time, because the libraries read
headers at once whose length the archive states.
"""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO

from adapters.errors import SourceError
from adapters.files import CHUNK
from composer.errors import quoted

_MAX_READ = 2 * CHUNK
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_TAR_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}


@dataclass(frozen=True, slots=True)
class ArchiveEntry:
    """One entry. `problem` says what it is if neither file nor folder; `open` gives a file."""

    name: str
    is_file: bool
    problem: str | None
    open: Callable[[], IO[bytes]]


def members_of(file: BinaryIO, source: str, max_bytes: int) -> Iterator[ArchiveEntry]:
    """The entries of the archive, its kind told by its first bytes.

    Those of a tar have to be read before the next one is asked for. All that a tar unpacks to
    counts towards `max_bytes`, for what is passed over has to be unpacked as well.

    Raises:
        SourceError: it is no zip, tar or tar.gz, or a tar of more than `max_bytes`.
        And whatever the libraries raise for damaged archives, see `archives.DAMAGED`.
    """
    start = file.read(512)
    file.seek(0)
    if start[:2] == b"PK":
        yield from _zip(file, source)
    elif start[:2] == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
            yield from _tar(_Forward(unpacked, source, max_bytes))
    elif start[257:262] == b"ustar":
        yield from _tar(_Forward(file, source, max_bytes))
    else:
        raise SourceError(
            f"{quoted(source)} is no zip, tar or tar.gz archive. Give a folder or such an archive."
        )


def _zip(file: BinaryIO, source: str) -> Iterator[ArchiveEntry]:
    with zipfile.ZipFile(_Pieces(file, source)) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            problem = None
            if kind == stat.S_IFLNK:
                problem = "a symbolic link"
            elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                problem = "a device, pipe or socket"
            elif info.flag_bits & 1:
                problem = "encrypted"
            elif info.compress_type not in _METHODS:
                # LZMA would allocate what its header says.
                problem = f"packed by method {info.compress_type}, neither stored nor deflated"
            yield ArchiveEntry(
                # The name before zipfile cuts it at a null byte.
                info.orig_filename,
                not info.is_dir() and kind != stat.S_IFDIR,
                problem,
                lambda info=info: archive.open(info),  # type: ignore[misc]
            )


def _tar(file: _Forward) -> Iterator[ArchiveEntry]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (info := archive.next()) is not None:
            problem = None if info.isfile() or info.isdir() else "of an unknown kind"
            if info.issparse():
                problem = "a sparse file"
            yield ArchiveEntry(
                info.name,
                info.isfile(),
                _TAR_KINDS.get(info.type, problem),
                lambda info=info: _opened(archive, info),  # type: ignore[misc]
            )
    # To the end, where gzip keeps its checksum.
    while file.read(CHUNK):
        pass


def _opened(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    if file is None:
        raise tarfile.ReadError(f"{info.name} is no file")
    return file


class _Pieces(io.RawIOBase):
    """A seekable file that is read in small pieces only."""

    def __init__(self, file: BinaryIO, source: str) -> None:
        super().__init__()
        self._file = file
        self._source = source

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, position: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(position, whence)

    def read(self, size: int = -1, /) -> bytes:
        data = b"" if size > _MAX_READ else self._file.read(_MAX_READ + 1 if size < 0 else size)
        if size > _MAX_READ or len(data) > _MAX_READ:
            raise SourceError(
                f"{quoted(self._source)} has more than {_MAX_READ} bytes of headers at once. "
                "Pack only the two files of the adapter."
            )
        return data


class _Forward(_Pieces):
    """A file that is read once, from its beginning to its end, up to a limit."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, source: str, max_bytes: int) -> None:
        super().__init__(file, source)  # type: ignore[arg-type]
        # Headers and padding come on top: three blocks a member, and two records at the end.
        self._left = max_bytes + CHUNK
        self._max_bytes = max_bytes
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET, /) -> int:
        if whence != io.SEEK_SET or position < self._position:
            raise tarfile.ReadError("its headers lead backwards")
        while position > self._position:
            if not self.read(min(CHUNK, position - self._position)):
                break
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        data = super().read(size)
        self._position += len(data)
        self._left -= len(data)
        if self._left < 0:
            raise SourceError(
                f"{quoted(self._source)} unpacks to more than the {self._max_bytes} bytes allowed. "
                "Pack only the two files of the adapter, or raise the server's limit."
            )
        return data
