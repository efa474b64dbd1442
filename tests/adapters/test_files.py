"""Nothing outside the folder of adapters is ever read, whatever happens to it meanwhile."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.errors import SourceError
from adapters.files import CONFIG, open_below, open_file_in

SWAP = """
import os, sys
place, hidden, outside = sys.argv[1:]
print("ready", flush=True)
while True:
    os.rename(place, hidden)
    os.symlink(outside, place)
    os.unlink(place)
    os.rename(hidden, place)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of adapters, and a secret beside it."""
    for folder in ("root/team/polite", "outside/polite"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / CONFIG).write_text(folder)
    return tmp_path / "root"


def content(descriptor: int) -> str:
    with os.fdopen(descriptor) as file:
        return file.read()


def refused(root: Path, path: Path | str) -> str:
    with pytest.raises(SourceError) as caught:
        os.close(open_below(root, path))
    return caught.value.message


@pytest.mark.parametrize("path", ["team/polite", "./team/polite/", "team/../team/polite"])
def test_paths_below_the_root(root: Path, path: str) -> None:
    assert content(open_below(root, f"{path}/{CONFIG}")) == "root/team/polite"
    assert content(open_below(root, root / path / CONFIG)) == "root/team/polite"
    descriptor = open_below(root, path)
    try:
        assert os.listdir(descriptor) == [CONFIG]
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_the_root_itself_and_a_root_behind_a_link(root: Path, tmp_path: Path) -> None:
    os.close(open_below(root, "."))
    link = tmp_path / "link"
    link.symlink_to(root)
    assert content(open_below(link, f"team/polite/{CONFIG}")) == "root/team/polite"
    assert content(open_below(link, root / "team/polite" / CONFIG)) == "root/team/polite"


@pytest.mark.parametrize(
    "path", ["..", "../outside/polite", "team/../../outside", "/etc/passwd", "../root-2", "/"]
)
def test_paths_that_lead_outside(root: Path, path: str) -> None:
    (root.parent / "root-2").mkdir()
    message = refused(root, path)
    assert "leads outside" in message
    assert f"'{path}'" in message


def test_what_lies_outside_stays_unknown(root: Path) -> None:
    there = refused(root, "../outside/polite")
    assert refused(root, "../outside/nobody") == there.replace("polite", "nobody")


def test_links_are_followed_below_the_root_only(root: Path) -> None:
    (root / "inside").symlink_to("team/polite")
    (root / "outside").symlink_to("../outside/polite")
    (root / "team/polite/file").symlink_to(root.parent / "outside/polite" / CONFIG)
    (root / "loop").symlink_to("loop")
    (root / "nowhere").symlink_to("team/rude")
    assert content(open_below(root, f"inside/{CONFIG}")) == "root/team/polite"
    assert "leads outside" in refused(root, "outside")
    assert "leads outside" in refused(root, f"outside/{CONFIG}")
    assert "leads outside" in refused(root, "team/polite/file")
    assert "cannot be read" in refused(root, "loop")
    assert "No such file" in refused(root, "nowhere")


def test_paths_that_are_none(root: Path) -> None:
    assert "No such file" in refused(root, "team/rude")
    assert "Not a directory" in refused(root, f"team/polite/{CONFIG}/x")
    assert "too long" in refused(root, "x" * 300)
    assert "is not a path" in refused(root, "a\0b")


def test_what_is_neither_file_nor_folder(root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert "neither a file nor a folder" in refused(root, "pipe")  # and does not wait for a writer
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        assert "cannot be read" in refused(root, "socket")


def test_files_of_an_open_folder(root: Path) -> None:
    """As in the cache of the hub: snapshots/<commit>/<file> -> ../../blobs/<hash>."""
    (root / "blobs").mkdir()
    (root / "blobs/1").write_text("blob")
    folder = root / "team/polite"
    (folder / "link").symlink_to("../../blobs/1")
    (folder / "absolute").symlink_to(root / "blobs/1")
    (folder / "outside").symlink_to("../../../outside/polite/" + CONFIG)
    (folder / "folder").mkdir()
    descriptor = open_below(root, folder)
    try:
        for name, expected in (
            (CONFIG, "root/team/polite"),
            ("link", "blob"),
            ("absolute", "blob"),
        ):
            found = open_file_in(root, "team/polite", descriptor, name)
            assert found is not None
            assert content(found) == expected
        assert open_file_in(root, "team/polite", descriptor, "nobody") is None
        with pytest.raises(SourceError, match="leads outside"):
            open_file_in(root, "team/polite", descriptor, "outside")
        with pytest.raises(SourceError, match="neither a file nor a folder"):
            open_file_in(root, "team/polite", descriptor, "folder")
    finally:
        os.close(descriptor)


@pytest.fixture(params=["team", "team/polite"])
def swapped(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Iterator[None]:
    """Another process exchanges a folder for a link to the outside and back, all the time."""
    outside = tmp_path / ("outside" if request.param == "team" else "outside/polite")
    arguments = [root / request.param, tmp_path / "hidden", outside]
    process = subprocess.Popen(
        [sys.executable, "-c", SWAP, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        assert process.poll() is None, "the exchange came to an end before the reading"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.usefixtures("swapped")
def test_a_folder_swapped_for_a_link_while_it_is_read(root: Path) -> None:
    outcomes: list[bool] = []
    while len(outcomes) < 500 or len(set(outcomes)) < 2:  # until both happened
        try:
            descriptor = open_below(root, "team/polite")
            try:
                found = open_file_in(root, "team/polite", descriptor, CONFIG)
            finally:
                os.close(descriptor)
        except SourceError:
            outcomes.append(False)
            continue
        assert found is not None
        assert content(found) == "root/team/polite"
        outcomes.append(True)


def test_descriptors_do_not_leak(root: Path) -> None:
    os.mkfifo(root / "pipe")
    before = len(os.listdir("/dev/fd"))
    for path in ("pipe", "team/rude", "..", "a\0b", f"team/polite/{CONFIG}/x"):
        refused(root, path)
    assert len(os.listdir("/dev/fd")) == before
