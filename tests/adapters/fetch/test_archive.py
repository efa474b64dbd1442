"""What archives are unpacked, and that no archive writes, allocates or reads what it should not."""

from __future__ import annotations

import gzip
import io
import random
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from adapters.errors import SourceError
from adapters.fetch.archive import MAX_MEMBERS, unpack
from adapters.inspection.inspect import inspect
from tests.support.adapter_files import write_adapter

MIB = 1 << 20
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PAIR = {CONFIG: b"{}", WEIGHTS: b"weights"}


def zipped(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(members: Mapping[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for info in extra:
            archive.addfile(info)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def packed(members: Mapping[str, bytes]) -> bytes:
    return gzip.compress(tarred(members))


KINDS = [zipped, tarred, packed]
each_kind = pytest.mark.parametrize("pack", KINDS, ids=["zip", "tar", "tar.gz"])
Pack = Callable[[Mapping[str, bytes]], bytes]


def unpacked(tmp_path: Path, data: bytes, max_bytes: int = MIB) -> dict[str, bytes]:
    archive, destination = tmp_path / "archive", tmp_path / "destination"
    archive.write_bytes(data)
    destination.mkdir()
    unpack(archive, destination, max_bytes)
    return {path.name: path.read_bytes() for path in destination.iterdir()}


def refused(tmp_path: Path, data: bytes, max_bytes: int = MIB) -> str:
    with pytest.raises(SourceError) as caught:
        unpacked(tmp_path, data, max_bytes)
    assert "'archive'" in caught.value.message
    assert list((tmp_path / "destination").iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["archive", "destination"]
    (tmp_path / "destination").rmdir()
    return caught.value.message


@each_kind
@pytest.mark.parametrize("folder", ["", "./", "polite/", "runs/7/polite/"])
def test_the_two_files_are_written_and_nothing_else(
    tmp_path: Path, pack: Pack, folder: str
) -> None:
    members = {f"{folder}README.md": b"read me"} | {f"{folder}{n}": d for n, d in PAIR.items()}
    assert unpacked(tmp_path, pack(members)) == PAIR
    for name in PAIR:
        assert stat.S_IMODE((tmp_path / "destination" / name).stat().st_mode) == 0o600


@each_kind
def test_a_real_adapter_keeps_its_digest(tmp_path: Path, pack: Pack) -> None:
    folder = write_adapter(tmp_path / "polite")
    data = pack({p.name: p.read_bytes() for p in folder.iterdir()})
    unpacked(tmp_path, data)
    assert inspect(tmp_path / "destination", "a").digest == inspect(folder, "a").digest


def test_archives_as_tar_and_zip_write_folders(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "polite")
    archive = tmp_path / "archive.tgz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, "polite")
    (tmp_path / "destination").mkdir()
    unpack(archive, tmp_path / "destination", MIB)
    assert inspect(tmp_path / "destination", "a").digest == inspect(folder, "a").digest


@each_kind
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "absolute"),
        ("C:/x", "absolute"),
        ("../x", "out of the archive"),
        (f"a/../../{CONFIG}", "out of the archive"),
        ("a\\..\\x", "characters"),
        ("a\nb", "characters"),
    ],
)
def test_names_that_lead_elsewhere(tmp_path: Path, pack: Pack, name: str, reason: str) -> None:
    message = refused(tmp_path, pack(PAIR | {name: b"evil"}))
    assert reason in message
    assert ascii(name)[1:5].replace("\\\\", "\\") in message


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
    ],
)
@pytest.mark.parametrize("name", [WEIGHTS, "other"])
def test_tar_members_that_are_no_files(tmp_path: Path, kind: bytes, reason: str, name: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    message = refused(tmp_path, tarred(PAIR, info))
    assert f"the member '{name}', which is {reason}" in message


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_zip_members_that_are_no_files(tmp_path: Path, mode: int) -> None:
    file = io.BytesIO(zipped(PAIR))
    info = zipfile.ZipInfo("evil")
    info.external_attr = (mode | 0o777) << 16
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    assert "the member 'evil', which is a" in refused(tmp_path, file.getvalue())


def test_zip_members_that_cannot_be_read(tmp_path: Path) -> None:
    whole = zipped(PAIR)
    entry = whole.index(b"PK\x01\x02")
    encrypted = bytearray(whole)
    encrypted[entry + 8] |= 1
    assert "encrypted" in refused(tmp_path, bytes(encrypted))
    lzma = bytearray(whole)
    struct.pack_into("<H", lzma, entry + 10, zipfile.ZIP_LZMA)
    assert "packed by method 14" in refused(tmp_path, bytes(lzma))


@each_kind
def test_exactly_one_adapter(tmp_path: Path, pack: Pack) -> None:
    two = {f"{folder}/{name}": data for folder in "ab" for name, data in PAIR.items()}
    message = refused(tmp_path, pack(two))
    assert "several of them" in message
    assert f"'b/{WEIGHTS}'" in message

    message = refused(tmp_path, pack({f"a/{CONFIG}": b"", f"b/{WEIGHTS}": b""}))
    assert "in two folders" in message

    message = refused(tmp_path, pack({CONFIG: b"", **{f"file{i}": b"" for i in range(30)}}))
    assert f"has no {WEIGHTS}; found: '{CONFIG}', 'file0'" in message
    assert "and 11 more" in message
    assert f"no {CONFIG} and no {WEIGHTS}; found: 'x'" in refused(tmp_path, pack({"x": b""}))


@each_kind
def test_pickles_are_the_reason(tmp_path: Path, pack: Pack) -> None:
    message = refused(tmp_path, pack({CONFIG: b"{}", "adapter_model.bin": b""}))
    assert "adapter_model.bin" in message
    assert "run code" in message


def test_a_name_twice_is_two_adapters(tmp_path: Path) -> None:
    file = io.BytesIO(zipped(PAIR))
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(CONFIG, b"other")
    assert "several of them" in refused(tmp_path, file.getvalue())


@each_kind
def test_the_number_of_members(tmp_path: Path, pack: Pack) -> None:
    some = {f"file{i}": b"" for i in range(MAX_MEMBERS - 2)}
    assert unpacked(tmp_path, pack(PAIR | some), 4 * MIB) == PAIR
    (tmp_path / "destination" / CONFIG).unlink()
    (tmp_path / "destination" / WEIGHTS).unlink()
    (tmp_path / "destination").rmdir()
    message = refused(tmp_path, pack(PAIR | some | {"one": b""}), 4 * MIB)
    assert "more than 1000 members" in message


@each_kind
def test_bytes_are_counted_as_they_are_written(tmp_path: Path, pack: Pack) -> None:
    data = pack({CONFIG: b"{}", WEIGHTS: bytes(8 * MIB)})
    assert "more than the 1048576 bytes" in refused(tmp_path, data)
    assert len(unpacked(tmp_path, data, 8 * MIB + 2)[WEIGHTS]) == 8 * MIB
    for path in (tmp_path / "destination").iterdir():
        path.unlink()
    (tmp_path / "destination").rmdir()
    assert "more than the 8388609 bytes" in refused(tmp_path, data, 8 * MIB + 1)


def test_sizes_that_a_zip_states_are_not_believed(tmp_path: Path) -> None:
    data = bytearray(zipped({CONFIG: b"{}", WEIGHTS: bytes(8 * MIB)}))
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    struct.pack_into("<I", data, entry + 24, 7)  # 7 bytes, it says
    assert "damaged" in refused(tmp_path, bytes(data))


def test_what_a_tar_unpacks_besides_counts_too(tmp_path: Path) -> None:
    data = packed({"junk": bytes(64 * MIB)} | PAIR)
    assert len(data) < MIB
    assert "more than the 1048576 bytes" in refused(tmp_path, data)


def peak_of(refusal: Callable[[], str]) -> tuple[str, int]:
    tracemalloc.start()
    try:
        return refusal(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_that_a_tar_states_to_be_long(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, 64 * MIB
    data = gzip.compress(info.tobuf() + bytes(64 * MIB), 1)
    message, peak = peak_of(lambda: refused(tmp_path, data, 256 * MIB))
    assert "headers at once" in message
    assert peak < 16 * MIB


def test_headers_that_continue_headers(tmp_path: Path) -> None:
    info = tarfile.TarInfo("header")
    info.type = tarfile.GNUTYPE_LONGNAME
    assert "damaged" in refused(tmp_path, (info.tobuf() * 5000) + tarred(PAIR), 256 * MIB)


def test_a_tar_that_leads_backwards(tmp_path: Path) -> None:
    """A negative size sends Python's tarfile back to its beginning, for ever (CVE-2025-8194).

    A Python with the fix refuses the header itself, in words of its own.
    """
    info = tarfile.TarInfo("again")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (-1024).to_bytes(12, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    message = refused(tmp_path, bytes(header) + tarred(PAIR))
    assert "is damaged: its headers lead backwards" in message or "invalid offset" in message


def test_a_directory_that_a_zip_states_to_be_long(tmp_path: Path) -> None:
    data = zipped({f"{i:0200}": b"" for i in range(30_000)})
    message, peak = peak_of(lambda: refused(tmp_path, data, 256 * MIB))
    assert "headers at once" in message
    assert peak < 16 * MIB


def test_other_formats(tmp_path: Path) -> None:
    for data in (b"", b"PK", b"hello" * 200, b"BZh91AY", bytes(4096)):
        message = refused(tmp_path, data)
        assert "not a zip, tar or tar.gz" in message or "damaged" in message
    with pytest.raises(SourceError, match="cannot be read"):
        unpack(tmp_path / "nowhere", tmp_path, MIB)


@each_kind
def test_damage_is_an_error_or_harmless(tmp_path: Path, pack: Pack) -> None:
    """A thousand archives with flipped or missing bytes: refused, or unpacked to the two files."""
    whole = pack({CONFIG: b"{}" * 40, WEIGHTS: bytes(range(256)) * 20, "other": b"x" * 2000})
    source = random.Random(7)
    outcomes = []
    archive = tmp_path / "archive"
    destination = tmp_path / "destination"
    destination.mkdir()
    for _ in range(350):
        data = bytearray(whole[: source.randrange(len(whole))] if source.random() < 0.3 else whole)
        for _ in range(source.randrange(1, 8)):
            if data:
                data[source.randrange(len(data))] = source.randrange(256)
        archive.write_bytes(data)
        try:
            unpack(archive, destination, MIB)
            assert sorted(p.name for p in destination.iterdir()) == [CONFIG, WEIGHTS]
            outcomes.append(True)
        except SourceError:
            outcomes.append(False)
            assert list(destination.iterdir()) == []
        for path in destination.iterdir():
            path.unlink()
    assert not all(outcomes)


@each_kind
def test_files_that_are_there_already_stay(tmp_path: Path, pack: Pack) -> None:
    (tmp_path / "destination").mkdir()
    (tmp_path / "destination" / CONFIG).write_text("mine")
    (tmp_path / "archive").write_bytes(pack(PAIR))
    with pytest.raises(FileExistsError):
        unpack(tmp_path / "archive", tmp_path / "destination", MIB)
    assert (tmp_path / "destination" / CONFIG).read_text() == "mine"
