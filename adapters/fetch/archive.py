"""Unpack adapters from zip, tar and tar.gz archives, recognized by content, not by name.

Refused, naming the member:

* names that are absolute, lead upwards (`..`), or hold backslashes or control characters
* symbolic and hard links, devices, pipes, sparse files, encrypted members, and packing methods
  other than deflate
* more than 1,000 members; more bytes than allowed, counted while they are unpacked
* anything but exactly one `adapter_config.json` beside exactly one `adapter_model.safetensors`, at
  the root or in a folder

Only these two files are written, under fixed names, so a name in an archive never becomes a path.
"""

from __future__ import annotations

import re
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, NoReturn

from adapters.errors import SourceError
from adapters.fetch.archive_entries import ArchiveEntry, members_of
from adapters.fetch.size_limit import Allowance, both_or_none, copy, new_file
from adapters.files import CONFIG, WEIGHTS, missing
from adapters.inspection.problems import listing
from composer.errors import quoted

MAX_MEMBERS = 1000

DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    struct.error,
    EOFError,
    OSError,  # gzip.BadGzipFile is one
    ValueError,
    OverflowError,
    RuntimeError,  # versions of zip that are not implemented; headers that continue headers
)
"""The exceptions of the libraries for damaged archives."""

_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:")


def unpack(archive: Path, destination: Path, max_bytes: int) -> None:
    """Write the adapter in the file `archive` into the folder `destination`, files of mode 0600.

    Raises:
        SourceError: the file is not an archive of one adapter, is unsafe, or unpacks to more than
            `max_bytes`.
        AdapterStoreError: the disk is full or fails.
    """
    try:
        file = archive.open("rb")
    except OSError as error:
        raise SourceError(
            f"the archive {quoted(str(archive))} cannot be read: {error.strerror}. Give another."
        ) from error
    with file:
        unpack_file(file, archive.name, destination, max_bytes)


def unpack_file(file: BinaryIO, source: str, destination: Path, max_bytes: int) -> None:
    """Do the same as `unpack` from an open file; messages call it `source`."""
    with both_or_none(destination):
        try:
            _Unpacking(source, destination, max_bytes).run(file)
        except DAMAGED as error:
            raise SourceError(
                f"{quoted(source)} is damaged: {str(error) or type(error).__name__}. Pack it again."
            ) from error


class _Unpacking:
    """One archive being unpacked: the members seen so far, and the files written."""

    def __init__(self, source: str, destination: Path, max_bytes: int) -> None:
        self.source = source
        self.destination = destination
        self.allowance = Allowance(source, max_bytes)
        self.names: list[str] = []
        self.folders: dict[str, list[str]] = {CONFIG: [], WEIGHTS: []}

    def run(self, file: BinaryIO) -> None:
        for member in members_of(file, self.source, self.allowance.max_bytes):
            self.check(member)
            *folders, name = [p for p in member.name.split("/") if p not in ("", ".")] or [""]
            if not member.is_file or name not in self.folders:
                continue
            self.folders[name].append("/".join(folders))
            if len(self.folders[name]) == 1:
                with (
                    member.open() as content,
                    new_file(self.destination, name, self.allowance) as written,
                ):
                    copy(content.read, written)
        self.check_pair()

    def check(self, member: ArchiveEntry) -> None:
        name = member.name
        self.names.append(name)
        if len(self.names) > MAX_MEMBERS:
            self.refuse(f"has more than {MAX_MEMBERS} members")
        if name.startswith("/") or _WINDOWS_DRIVE.match(name):
            self.refuse(f"has the member {quoted(name)}, an absolute name")
        if ".." in name.split("/"):
            self.refuse(f"has the member {quoted(name)}, which leads out of the archive")
        if "\\" in name or not name.isprintable():
            self.refuse(
                f"has the member {quoted(name)}, with characters that a file name must not have"
            )
        if member.problem:
            self.refuse(f"has the member {quoted(name)}, which is {member.problem}")

    def check_pair(self) -> None:
        configs, weights = self.folders[CONFIG], self.folders[WEIGHTS]
        if len(configs) == len(weights) == 1 and configs == weights:
            return
        if len(configs) <= 1 and len(weights) <= 1 and not (configs and weights):
            absent = [name for name, folders in self.folders.items() if not folders]
            raise missing(self.source, absent, self.names)
        problem = (
            "several of them" if len(configs) > 1 or len(weights) > 1 else "them in two folders"
        )
        names = listing([quoted(name) for name in self.names])
        self.refuse(f"needs one {CONFIG} beside one {WEIGHTS}, but has {problem}; found: {names}")

    def refuse(self, problem: str) -> NoReturn:
        raise SourceError(
            f"{quoted(self.source)} {problem}. Pack only the two files of one adapter, "
            f"{CONFIG} and {WEIGHTS}."
        )
