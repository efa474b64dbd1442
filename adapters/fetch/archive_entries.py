"""The members of a zip or tar archive, one after the other, without trusting its headers.

Both formats are read through files that return at most 2 MiB at a time: the libraries read a header
in one call, and the archive states its length.
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
    """One entry. `problem` names an entry that is refused; `open` opens a file for reading."""

    name: str
    is_file: bool
    problem: str | None
    open: Callable[[], IO[bytes]]


def members_of(file: BinaryIO, source: str, max_bytes: int) -> Iterator[ArchiveEntry]:
    """Yield the entries of the archive, whose format follows from its first bytes.

    An entry of a tar must be read before the next one is requested. Everything that a tar unpacks
    to counts towards `max_bytes`, because skipped entries are unpacked as well.

    Raises:
        SourceError: the file is not a zip, tar or tar.gz, or is a tar of more than `max_bytes`.
        archive.DAMAGED: the archive is damaged.
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
            f"{quoted(source)} is not a zip, tar or tar.gz archive. Give a folder or one of these."
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
    # Read to the end, where gzip stores its checksum.
    while file.read(CHUNK):
        pass


def _opened(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    if file is None:
        raise tarfile.ReadError(f"{info.name} is not a file")
    return file


class _Pieces(io.RawIOBase):
    """A seekable file that refuses to return more than `_MAX_READ` bytes at once."""

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
    """A file that is read once, from beginning to end, up to a limit."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, source: str, max_bytes: int) -> None:
        super().__init__(file, source)  # type: ignore[arg-type]
        # Room for headers and padding: three blocks per member, and two records at the end.
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
