"""Killed, out of space, and several at once: real processes on one store."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import AdapterStoreError
from adapters.store.store import Store
from adapters.store.version import Version
from tests.adapters.store import victims
from tests.adapters.store.stores import check, commit, lines, publish

WAIT_S = 60

# Forks of a process that has all imports done and runs no threads.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", "tests.adapters.store.victims"])


class Process:
    """A process that runs a function of `victims`."""

    def __init__(self, work: Callable[..., None], *arguments: object) -> None:
        self.pipe, other = PROCESSES.Pipe()
        self._process = PROCESSES.Process(target=work, args=(other, *arguments), daemon=True)
        self._process.start()
        other.close()

    def told(self) -> Any:
        """What it sends next."""
        assert self.pipe.poll(WAIT_S), "the process tells nothing"
        return self.pipe.recv()

    def rest(self) -> list[Any]:
        """All that it sent before it ended."""
        everything = []
        while True:
            try:
                everything.append(self.told())
            except (EOFError, ConnectionResetError):
                return everything

    def kill(self) -> None:
        """With SIGKILL."""
        self._process.kill()
        self._process.join(WAIT_S)

    def exit_code(self) -> int | None:
        """How it ended; waits for that."""
        self._process.join(WAIT_S)
        return self._process.exitcode


@contextmanager
def running(work: Callable[..., None], *arguments: object) -> Iterator[Process]:
    process = Process(work, *arguments)
    try:
        yield process
    finally:
        process.kill()
        process.pipe.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_killed_at_any_moment(root: Path) -> None:
    random_ = random.Random(3)
    finished: list[Version] = []
    for seed in range(36):
        with running(victims.churn, root, seed) as process:
            assert process.told() == "ready"
            finished += [process.told() for _ in range(random_.randrange(8))]
            time.sleep(random_.uniform(0, 0.005))  # the moment is what varies, not a wait for work
            process.kill()
            finished += process.rest()
        versions = check(root, victims.KEEP)
        assert [version for version in finished if version not in versions] == []
    assert len(finished) > 100


def test_killed_at_any_line(tmp_path: Path) -> None:
    with running(victims.live, tmp_path / "whole", None) as process:
        *whole, count = process.rest()
        assert process.exit_code() == 0
    assert len(whole) == 4
    unchanged = {version.sequence: version.digest for version in whole}
    seen = set()
    for line in range(1, count, max(1, count // 60)):
        root = tmp_path / str(line)
        with running(victims.live, root, line) as process:
            finished = process.rest()
            assert process.exit_code() == -9
        versions = check(root, keep=1)
        assert versions[: len(finished)] == finished
        assert len(versions) - len(finished) <= 1, "at most the change that was under way"
        assert all(unchanged[version.sequence] == version.digest for version in versions)
        publish(Store(root), 3)
        assert len(check(root, keep=1)) == len(versions) + 1
        seen.add((len(finished), len(versions)))
    assert {length for length, _ in seen} == {0, 1, 2, 3}


def test_a_full_disk_leaves_the_journal_as_it_was(root: Path) -> None:
    store = Store(root)
    publish(store, 1)
    journal = root / "journal.jsonl"
    before = journal.read_bytes()
    sizes = [len(before) + more for more in (0, 1, len(before) // 2, len(before) - 90)]
    with running(victims.publish_on_a_full_disk, root, commit(store, 2), sizes) as process:
        for _ in sizes:
            assert "the change did not happen" in process.told()
            assert journal.read_bytes() == before
            assert store.refresh() == ()
            process.pipe.send("go on")
        version = process.told()
    assert version.number == 2
    assert store.refresh() == (version,)
    assert journal.read_bytes().startswith(before)
    check(root)


def test_a_full_disk_leaves_no_half_object(root: Path) -> None:
    first = publish(Store(root), 1)
    with running(victims.commit_on_a_full_disk, root) as process:
        assert "Make room on the disk" in process.told()
        assert process.told().number == 2
    assert len(list((root / "objects").iterdir())) == 2
    assert check(root)[0] == first


@pytest.mark.parametrize("how", ["file system", "permissions", "permissions, no lock file"])
def test_a_store_that_is_read_only_can_be_served_from(how: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = Path(folder, "store")
        store = Store(root)
        version = publish(store, 1)
        composition = store.compositions.put("kind", "base", key=None, owner="me", actor="me")
        if how.endswith("no lock file"):
            (root / "lock").unlink()
        with running(victims.read_only, root, how == "file system") as process:
            assert process.told() == (True, version, composition)
            for _ in range(process.told()):
                name, kind, message = process.told()
                assert kind == "StoreReadOnlyError", (name, message)
                assert "--adapter-store" in message
            for path in (root, *root.rglob("*")):
                path.chmod(0o755)
            second = publish(store, 2)  # by a server that may
            process.pipe.send("go on")
            assert process.told() == (second,)


def test_a_store_that_is_not_there_cannot_be_made_read_only(tmp_path: Path) -> None:
    with running(victims.open_read_only, tmp_path / "nowhere") as process:
        kind, message = process.told()
    assert kind == "StoreReadOnlyError"
    assert "nowhere" in message


def test_a_file_system_without_locks_cannot_be_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS mounted without a lock daemon answers: a server does not start on such a store."""

    def no_locks(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(AdapterStoreError, match=r"store/lock.*Mount its file system with locks"):
        Store(tmp_path / "store")


def test_two_writers_lose_no_update(root: Path) -> None:
    store = Store(root)
    first = publish(store, 1)
    digests = [str(first.digest), commit(store, 2)]
    turns = 100
    with (
        running(victims.compete, root, digests, turns) as one,
        running(victims.compete, root, digests, turns) as two,
    ):
        for process in (one, two):
            assert process.told() == "ready"
        for process in (one, two):
            process.pipe.send("go")
        conflicts = [process.told() for process in (one, two)]
    versions = check(root)[1:]
    assert len(versions) == 2 * turns
    assert all(version.origin["after"] == version.number - 1 for version in versions)
    by_actor: dict[str, list[object]] = {}
    for version in versions:
        by_actor.setdefault(version.actor, []).append(version.origin["turn"])
    assert list(by_actor.values()) == [list(range(turns))] * 2
    assert sum(conflicts) > 0, "both began from version 1"
    assert list(store.refresh()) == versions


def test_two_that_commit_the_same_content_both_succeed(root: Path) -> None:
    Store(root)
    count = 20
    with (
        running(victims.commit_all, root, count) as one,
        running(victims.commit_all, root, count) as two,
    ):
        for _ in range(count):
            for process in (one, two):
                assert process.told() == "ready"
            for process in (one, two):
                process.pipe.send("go")
            assert one.told() == two.told()
        assert one.exit_code() == two.exit_code() == 0
    store = Store(root)
    objects = [path.name for path in (root / "objects").iterdir()]
    assert len(objects) == count
    for digest in objects:
        store.verify(digest)


def test_what_others_publish_is_seen_in_order(root: Path) -> None:
    store = Store(root)
    seen: list[Version] = []
    with running(victims.publish_some, root, 30) as process:
        sent = []
        for _ in range(30):
            sent.append(process.told())
            seen += store.refresh()
            assert seen[: len(sent)] == sent, "what is published is there for everybody"
    assert [version.sequence for version in seen] == list(range(1, 31))
    assert store.refresh() == ()
    assert store.current("two") == sent[-1]


def test_a_staging_folder_lives_as_long_as_its_process(root: Path) -> None:
    store = Store(root)
    with running(victims.hold, root) as process:
        digest = process.told()
        (folder,) = (root / "staging").iterdir()
        assert Store(root).prune(1) == ()
        assert folder.is_dir()
        process.kill()
        assert folder.is_dir()
        Store(root)
        assert not folder.exists()
    assert store.prune(1) == (digest,)


def test_a_truncated_object_is_not_published(root: Path) -> None:
    store = Store(root)
    publish(store, 1)
    digest = commit(store, 2)
    weights = root / "objects" / digest / "adapter_model.safetensors"
    with weights.open("rb+") as file:
        file.truncate(weights.stat().st_size // 2)
    for opened in (store, Store(root)):
        with pytest.raises(AdapterStoreError, match="damaged"):
            opened.publish("polite", digest, actor="tests", origin={})
    assert len(lines(root)) == 1
    assert publish(store, 2).digest == digest
    check(root)
