"""Adapters from folders, archives, HTTP servers and a hub: what arrives, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest

from adapters.errors import SourceError, SourceUnavailableError, StoreFullError
from adapters.fetch.sources import SourceRules, fetch
from adapters.inspection.inspect import inspect
from tests.adapters.loopback import Answer, Repository, Server, files, hub, serving
from tests.support.adapter_files import write_adapter

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[3]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PAIR = {CONFIG: b'{"one": 1}', WEIGHTS: b"weights"}


def below(folder: str, content: Mapping[str, Any] = PAIR) -> dict[str, Any]:
    return {f"{folder}/{name}": data for name, data in content.items()}


def zipped(content: Mapping[str, bytes] = PAIR) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file.getvalue()


def tgz(folder: Path) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.add(folder, folder.name)
    return file.getvalue()


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    (tmp_path / "destination").mkdir()
    return tmp_path / "destination"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def arrived(destination: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in destination.iterdir()}


def refused(source: str, destination: Path, rules: SourceRules) -> str:
    with pytest.raises(SourceError) as caught:
        fetch(source, destination, rules)
    assert arrived(destination) == {}
    return caught.value.message


def write(folder: Path, content: Mapping[str, bytes] = PAIR) -> Path:
    folder.mkdir(parents=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder


# Local folders and archives


@pytest.mark.parametrize("form", ["relative", "absolute"])
def test_a_local_folder(root: Path, destination: Path, form: str) -> None:
    folder = write_adapter(root / "polite")
    (folder / "optimizer.pt").write_bytes(b"large")
    source = "polite" if form == "relative" else str(folder)
    assert fetch(source, destination, SourceRules(root, (), MIB)) == {"source": source}
    assert set(arrived(destination)) == {CONFIG, WEIGHTS}
    assert inspect(destination, "a").digest == inspect(folder, "a").digest
    for path in destination.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_local_archive(root: Path, destination: Path) -> None:
    (root / "polite.any").write_bytes(tgz(write_adapter(root / "polite")))
    fetch("polite.any", destination, SourceRules(root, (), MIB))
    assert inspect(destination, "a").digest == inspect(root / "polite", "a").digest


def test_local_paths_that_are_refused(root: Path, destination: Path) -> None:
    rules = SourceRules(root, (), 100)
    write(root.parent / "outside")
    (root / "link").symlink_to("../outside")
    assert "leads outside" in refused("../outside", destination, rules)
    assert "leads outside" in refused("link", destination, rules)
    assert "No such file" in refused("nobody", destination, rules)
    assert "no folder of adapters" in refused("x", destination, SourceRules(None, (), 100))

    write(root / "large", {CONFIG: bytes(50), WEIGHTS: bytes(51)})
    assert "more than the 100 bytes" in refused("large", destination, rules)
    (root / "large" / WEIGHTS).write_bytes(bytes(50))
    fetch("large", destination, rules)


def test_a_local_folder_without_an_adapter(root: Path, destination: Path) -> None:
    rules = SourceRules(root, (), 100)
    write(root / "other", {"model.safetensors": b""})
    message = refused("other", destination, rules)
    assert f"no {CONFIG}; found: 'model.safetensors'" in message
    write(root / "pickle", {CONFIG: b"{}", "adapter_model.bin": b""})
    message = refused("pickle", destination, rules)
    assert "'adapter_model.bin', a format that can run code" in message
    (root / "text").write_text("hello")
    assert "not a zip, tar or tar.gz" in refused("text", destination, rules)


def test_files_that_link_into_the_root_as_in_the_cache_of_the_hub(
    root: Path, destination: Path
) -> None:
    write(root / "blobs", {"1": PAIR[CONFIG], "2": PAIR[WEIGHTS]})
    (root / "snapshots" / "0123").mkdir(parents=True)
    for name, blob in ((CONFIG, "1"), (WEIGHTS, "2")):
        (root / "snapshots" / "0123" / name).symlink_to(f"../../blobs/{blob}")
    fetch("snapshots/0123", destination, SourceRules(root, (), MIB))
    assert arrived(destination) == PAIR


def test_the_two_files_are_of_one_folder_while_a_link_is_moved(
    root: Path, destination: Path
) -> None:
    """`ln -sfn v2 current` while `current` is read."""
    for version in ("v1", "v2"):
        write(root / version, {CONFIG: version.encode(), WEIGHTS: version.encode()})
    (root / "current").symlink_to("v1")
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            for version in ("v1", "v2"):
                (root / "new").symlink_to(version)
                os.replace(root / "new", root / "current")

    thread = threading.Thread(target=move)
    thread.start()
    seen: list[bytes] = []
    try:
        while len(seen) < 300 or len(set(seen)) < 2:  # until both were read
            fetch("current", destination, SourceRules(root, (), MIB))
            content = arrived(destination)
            assert content[CONFIG] == content[WEIGHTS]
            seen.append(content[CONFIG])
            for path in destination.iterdir():
                path.unlink()
    finally:
        stop.set()
        thread.join()


def test_files_that_are_there_already_stay(root: Path, destination: Path) -> None:
    write(root / "polite")
    (destination / WEIGHTS).write_text("mine")
    with pytest.raises(FileExistsError):
        fetch("polite", destination, SourceRules(root, (), MIB))
    assert arrived(destination) == {WEIGHTS: b"mine"}


# HTTP


@pytest.mark.parametrize("source", ["/a/polite", "/a/polite/", "/a/b%20c.zip", "/a/d.TGZ"])
def test_http(tmp_path: Path, destination: Path, source: str) -> None:
    folder = write_adapter(tmp_path / "polite")
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    archives = {"/a/b c.zip": zipped(content), "/a/d.TGZ": tgz(folder)}
    with serving(files(below("/a/polite", content) | archives)) as server:
        rules = SourceRules(None, (f"{server.url}/a",), MIB)
        origin = fetch(server.url + source, destination, rules)
    assert origin == {"source": server.url + source.rstrip("/")}
    assert inspect(destination, "a").digest == inspect(folder, "a").digest


def test_urls_outside_the_allow_list_are_not_asked(destination: Path) -> None:
    with serving(files(below("/b"))) as server:
        rules = SourceRules(None, (f"{server.url}/a",), MIB)
        assert f"Use one below '{server.url}/a'" in refused(f"{server.url}/b", destination, rules)
        none = SourceRules(None, (), MIB)
        assert "allows no remote sources" in refused(f"{server.url}/b", destination, none)
        assert "query" in refused(f"{server.url}/a?b", destination, rules)
    assert server.seen == []


def test_redirects_within_the_allow_list(destination: Path) -> None:
    moved = {name: Answer(b"", 302, {"Location": f"/a/new/{name}?signed=1"}) for name in PAIR}
    with serving(files(below("/a/old", moved) | below("/a/new"))) as server:
        fetch(f"{server.url}/a/old", destination, SourceRules(None, (f"{server.url}/a",), MIB))
    assert arrived(destination) == PAIR


@pytest.mark.parametrize("where", ["another port", "another path", "another scheme", "a file"])
@pytest.mark.parametrize("source", ["/a/polite", "/a/polite.zip"])
def test_redirects_that_leave_the_allow_list(destination: Path, where: str, source: str) -> None:
    targets: dict[str, str] = {}
    with (
        serving(files(below("/a/secret") | {"/a/secret.zip": zipped()})) as internal,
        serving(lambda path: Answer(b"", 302, {"Location": targets["to"] + path})) as server,
    ):
        targets["to"] = {
            "another port": internal.url,
            "another path": f"{server.url}/b",
            "another scheme": server.url.replace("http", "https"),
            "a file": "file:///etc",
        }[where]
        rules = SourceRules(None, (f"{server.url}/a",), MIB)
        with pytest.raises((SourceError, SourceUnavailableError)) as caught:
            fetch(server.url + source, destination, rules)
        if where != "a file":  # which the client itself does not follow
            assert isinstance(caught.value, SourceError)
            assert "not in the server's list" in caught.value.message
    assert arrived(destination) == {}
    assert internal.seen == []
    assert len(server.seen) == 1


def test_an_http_folder_without_an_adapter(destination: Path) -> None:
    content = below("/pickle", {CONFIG: b"{}", "adapter_model.bin": b""}) | {"/no/" + CONFIG: b""}
    with serving(files(content)) as server:
        rules = SourceRules(None, (server.url,), MIB)
        assert f"has no {CONFIG}" in refused(f"{server.url}/nobody", destination, rules)
        assert f"has no {WEIGHTS}" in refused(f"{server.url}/no", destination, rules)
        assert "run code" in refused(f"{server.url}/pickle", destination, rules)
        assert "does not exist" in refused(f"{server.url}/nobody.zip", destination, rules)


@pytest.mark.parametrize("status", [401, 403, 410, 429, 500, 503])
def test_http_refusals_and_failures(destination: Path, status: int) -> None:
    with serving(lambda path: Answer(b"no", status)) as server:
        rules = SourceRules(None, (server.url,), MIB)
        mendable = status < 500 and status != 429
        with pytest.raises(SourceError if mendable else SourceUnavailableError) as caught:
            fetch(f"{server.url}/polite", destination, rules)
    assert str(status) in caught.value.message
    assert "/polite" in caught.value.message
    assert arrived(destination) == {}


def test_a_connection_that_breaks_off(destination: Path) -> None:
    content = below("/polite", PAIR | {WEIGHTS: Answer(b"weig", length=7)})
    with serving(files(content)) as server:
        rules = SourceRules(None, (server.url,), MIB)
        with pytest.raises(SourceUnavailableError):
            fetch(f"{server.url}/polite", destination, rules)
    assert arrived(destination) == {}
    with pytest.raises(SourceUnavailableError, match="Connect"):  # nobody listens any more
        fetch(f"{server.url}/polite", destination, rules)


def test_downloads_are_counted_as_they_come(destination: Path) -> None:
    """A server that states no length, and one that packs zeros a thousandfold."""
    endless = Answer(bytes(MIB), repeat=64, length=-1)
    bomb = Answer(gzip.compress(bytes(64 * MIB), 1), 200, {"Content-Encoding": "gzip"})

    def answer(path: str) -> Answer:
        found = {"e": endless, "b": bomb}[path[1]]
        return Answer(b"{}") if path.endswith(CONFIG) else found

    with serving(answer) as server:
        rules = SourceRules(None, (server.url,), 4 * MIB)
        tracemalloc.start()
        try:
            for source in ("e", "e.zip", "b", "b.zip"):
                message = refused(f"{server.url}/{source}", destination, rules)
                assert "more than the 4194304 bytes" in message
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 48 * MIB


# Other schemes


def test_other_drivers_of_fsspec(destination: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name, data in below("/store/polite").items():
        memory.pipe(name, data)
    memory.pipe("/store/polite.zip", zipped())
    memory.pipe("/store/empty/x", b"")
    try:
        rules = SourceRules(None, ("memory://store",), MIB)
        for source in ("memory://store/polite", "memory://store/polite.zip"):
            assert fetch(source, destination, rules) == {"source": source}
            assert arrived(destination) == PAIR
            for path in destination.iterdir():
                path.unlink()
        small = SourceRules(None, ("memory://store",), 10)
        assert "more than the 10 bytes" in refused("memory://store/polite", destination, small)
        assert "has no" in refused("memory://store/empty", destination, rules)
        assert "does not exist" in refused("memory://store/nobody.zip", destination, rules)
    finally:
        memory.rm("/store", recursive=True)


def test_drivers_that_are_not_installed(destination: Path) -> None:
    rules = SourceRules(None, ("s3://bucket", "nosuch://host"), MIB)
    assert "pip install s3fs" in refused("s3://bucket/polite", destination, rules)
    assert "fsspec does not know" in refused("nosuch://host/polite", destination, rules)


# The hub, and limits of the system, in a process of its own


class Fetcher:
    """Asks `tests.adapters.fetch.fetcher`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def fetch(self, source: str, destination: Path, **request: Any) -> dict[str, Any]:
        defaults = {"root": None, "remote": ["hf://"], "max_bytes": MIB, "largest_file": None}
        asked = defaults | {"environment": {}, "destination": str(destination)} | request
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked | {"source": source}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def refused(self, source: str, destination: Path, code: str, **request: Any) -> str:
        answer = self.fetch(source, destination, **request)
        assert answer.get("error", {}).get("code") == code, answer
        assert arrived(destination) == {}
        message: str = answer["error"]["message"]
        return message


@pytest.fixture(scope="module")
def hub_server() -> Iterator[Server]:
    adapter = Repository({"main": PAIR | {"README.md": b"new"}, "v1/old": PAIR})
    pickle = Repository({"main": {CONFIG: b"{}", "adapter_model.bin": b"", "x.md": b""}})
    liar = Repository({"main": PAIR | {WEIGHTS: bytes(2 * MIB)}}, stated_size=1)
    large = Repository({"main": PAIR | {WEIGHTS: bytes(2 * MIB)}})
    repositories = {"org/polite": adapter, "org/pickle": pickle, "org/liar": liar}
    with serving(hub(repositories | {"org/large": large})) as server:
        yield server


@pytest.fixture(scope="module")
def fetcher(hub_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetcher]:
    home = tmp_path_factory.mktemp("hub")
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": hub_server.url, "HF_TOKEN": "hf_secret"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.adapters.fetch.fetcher"],
        cwd=ROOT,
        env=os.environ | settings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Fetcher(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0
    assert not list(home.rglob("*.safetensors"))


@pytest.mark.parametrize("revision", ["", "@main", "@v1/old", "@commit"])
def test_the_hub(fetcher: Fetcher, hub_server: Server, destination: Path, revision: str) -> None:
    hub_server.seen.clear()
    old = Repository({"v1/old": PAIR}).commit("v1/old")
    new = Repository({"main": PAIR | {"README.md": b"new"}}).commit("main")
    source = "hf://org/polite" + revision.replace("commit", str(old))
    origin = fetcher.fetch(source, destination)["origin"]
    assert origin == {"source": source, "revision": new if revision in ("", "@main") else old}
    assert arrived(destination) == PAIR
    for path in destination.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not any("README" in path for path in hub_server.paths)
    resolved = [path for path in hub_server.paths if "/resolve/" in path]
    assert resolved
    assert all(f"/resolve/{origin['revision']}/" in path for path in resolved)
    assert {headers.get("authorization") for _, _, headers in hub_server.seen} >= {
        "Bearer hf_secret"
    }


def test_the_hub_of_the_moment(fetcher: Fetcher, hub_server: Server, destination: Path) -> None:
    """HF_ENDPOINT counts when an adapter is fetched, not when the server started."""
    with serving(hub({"org/rude": Repository({"main": PAIR})})) as other:
        environment = {"HF_ENDPOINT": other.url + "/"}
        origin = fetcher.fetch("hf://org/rude", destination, environment=environment)["origin"]
        assert origin["source"] == "hf://org/rude"
        assert arrived(destination) == PAIR
    for path in destination.iterdir():
        path.unlink()
    # that one is gone, now
    fetcher.refused("hf://org/rude", destination, "source_unavailable")
    environment = {"HF_ENDPOINT": hub_server.url}
    fetcher.refused("hf://org/rude", destination, "source_refused", environment=environment)


def test_what_the_hub_has_not(fetcher: Fetcher, destination: Path) -> None:
    code = "source_refused"
    assert "RepositoryNotFound" in fetcher.refused("hf://org/nobody", destination, code)
    assert "RevisionNotFound" in fetcher.refused("hf://org/polite@v9", destination, code)
    message = fetcher.refused("hf://org/pickle", destination, code)
    assert "'adapter_model.bin', a format that can run code" in message
    remote = ["hf://org/other"]
    message = fetcher.refused("hf://org/polite", destination, code, remote=remote)
    assert "not in the server's list" in message


def test_the_size_of_files_on_the_hub(fetcher: Fetcher, destination: Path) -> None:
    for name in ("large", "liar"):  # refused by what it states, and by what it sends
        source = f"hf://org/{name}"
        # The file would be cut at this limit, if its bytes were counted at the end only.
        message = fetcher.refused(source, destination, "source_refused", largest_file=MIB)
        assert "more than the 1048576 bytes" in message
    assert "origin" in fetcher.fetch("hf://org/large", destination, max_bytes=3 * MIB)


def test_a_full_disk(fetcher: Fetcher, root: Path, destination: Path) -> None:
    """A limit on the size of files, which the system enforces as it does a full disk."""
    content = {CONFIG: b"{}", WEIGHTS: bytes(2 * MIB)}
    write(root / "polite", content)
    (root / "polite.zip").write_bytes(zipped(content))
    with serving(files(below("/polite", content) | {"/polite.zip": zipped(content)})) as server:
        for source in (
            "polite",
            "polite.zip",
            f"{server.url}/polite",
            f"{server.url}/polite.zip",
            "hf://org/large",
        ):
            message = fetcher.refused(
                source,
                destination,
                StoreFullError.code,
                root=str(root),
                remote=["hf://", server.url],
                max_bytes=3 * MIB,
                largest_file=MIB,
            )
            assert source in message
            assert "Make room" in message
