"""What the processes of `test_store_faults.py` do. Each tells through its pipe what it finished."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import adapters
from adapters.errors import AdapterStoreError, VersionConflictError
from adapters.store.policy import Policy
from adapters.store.store import Store
from adapters.store.version import Version
from composer.errors import ComposerError
from tests.adapters.store.stores import commit, publish
from tests.support.adapter_files import write_adapter

ALIASES = ("one", "two", "three")
KEEP = 2

_OURS = str(Path(adapters.__file__).parent)


def churn(pipe: Connection, root: Path, seed: int) -> None:
    """Change adapters at random, for ever."""
    random_ = random.Random(seed)
    store = Store(root)
    pipe.send("ready")
    while True:
        alias = random_.choice(ALIASES)
        changes: list[Callable[[], Version]] = [
            lambda: publish(store, random_.randrange(1, 1000), alias),  # noqa: B023
            lambda: publish(store, random_.randrange(1, 10), alias),  # noqa: B023
            lambda: store.rollback(alias, actor="churn"),  # noqa: B023
            lambda: store.set_policy(alias, Policy(negative=False), actor="churn"),  # noqa: B023
            lambda: store.delete(alias, actor="churn"),  # noqa: B023
        ]
        weights = (8, 4, 3, 1, 1)
        try:
            pipe.send(random_.choices(changes, weights)[0]())
            if random_.random() < 0.1:
                store.prune(KEEP)
        except AdapterStoreError:
            raise
        except ComposerError:
            pass  # nothing to roll back or delete


def live(pipe: Connection, root: Path, last_line: int | None) -> None:
    """A short life of a store, killed before line `last_line` of those that run in adapters/.

    Not killed, it sends how many lines there are.
    """
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(_OURS):
            return None
        if event == "line":
            count += 1
            if count == last_line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    store = Store(root)
    pipe.send(publish(store, 1))
    pipe.send(publish(store, 2))
    pipe.send(store.rollback("polite", actor="live"))
    store.prune(1)
    pipe.send(publish(store, 2))
    sys.settrace(None)
    pipe.send(count)


def compete(pipe: Connection, root: Path, digests: list[str], turns: int) -> None:
    """Publish `turns` times by compare-and-swap, beginning anew whenever another was faster."""
    store = Store(root)
    pipe.send("ready")
    pipe.recv()
    conflicts = 0
    for turn in range(turns):
        while True:
            present = store.history("polite")[-1].number
            try:
                digest = digests[turn % len(digests)]
                origin = {"turn": turn, "after": present}
                actor = str(os.getpid())
                store.publish("polite", digest, expected=present, actor=actor, origin=origin)
                break
            except VersionConflictError:
                conflicts += 1
                store.refresh()
    pipe.send(conflicts)


def commit_all(pipe: Connection, root: Path, count: int) -> None:
    """Commit `count` contents, each when told to."""
    store = Store(root)
    for content in range(1, count + 1):
        pipe.send("ready")
        pipe.recv()
        pipe.send(commit(store, content))


def hold(pipe: Connection, root: Path) -> None:
    """Commit within a staging folder, and stay there."""
    store = Store(root)
    with store.staging() as folder:
        write_adapter(folder / "adapter", lora_alpha=77)
        pipe.send(store.commit(folder / "adapter", "polite", None, {}).digest)
        pipe.recv()


def publish_some(pipe: Connection, root: Path, count: int) -> None:
    """Publish under two names in turn."""
    store = Store(root)
    for number in range(count):
        pipe.send(publish(store, number + 1, ALIASES[number % 2]))


def publish_on_a_full_disk(pipe: Connection, root: Path, digest: str, sizes: list[int]) -> None:
    """Publish where no file may grow beyond each of `sizes` bytes; then where they may again.

    After each failure it waits to be told to go on.
    """
    store = Store(root)
    for size in sizes:
        with _files_up_to(size):
            pipe.send(_failure(lambda: store.publish("polite", digest, actor="full", origin={})))
        pipe.recv()
    pipe.send(store.publish("polite", digest, actor="room", origin={}))


def commit_on_a_full_disk(pipe: Connection, root: Path) -> None:
    """Commit where nothing can be written; then where it can be again."""
    store = Store(root)
    with store.staging() as folder:
        write_adapter(folder / "adapter", lora_alpha=3)
        with _files_up_to(100):
            pipe.send(_failure(lambda: store.commit(folder / "adapter", "polite", None, {})))
    pipe.send(publish(store, 3))


@contextmanager
def _files_up_to(size: int) -> Iterator[None]:
    """As on a full disk, a write beyond is done in part, then refused. Python ignores SIGXFSZ."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def _failure(work: Callable[[], object]) -> str:
    try:
        work()
    except AdapterStoreError as error:
        return error.message
    return "it did not fail"


def read_only(pipe: Connection, root: Path, file_system: bool) -> None:
    """Serve from a store that this process may not write, and try every change of it."""
    digest = str(Store(root).current("polite").digest)
    if file_system:
        _mount_read_only()
    else:
        _give_up_permissions(root)
    store = Store(root)
    store.verify(digest)
    pipe.send((store.read_only, store.current("polite"), store.compositions.get("kind")))
    changes: dict[str, Callable[[], object]] = {
        "staging": lambda: store.staging().__enter__(),
        "publish": lambda: store.publish("other", digest, actor="me", origin={}),
        "rollback": lambda: store.rollback("polite", actor="me"),
        "delete": lambda: store.delete("polite", actor="me"),
        "policy": lambda: store.set_policy("polite", Policy(), actor="me"),
        "prune": lambda: store.prune(1),
        "compose": lambda: store.compositions.put("new", "x", key=None, owner="me", actor="me"),
    }
    pipe.send(len(changes))
    for name, change in changes.items():
        try:
            change()
        except ComposerError as error:
            pipe.send((name, type(error).__name__, error.message))
    pipe.recv()
    pipe.send(store.refresh())


def open_read_only(pipe: Connection, root: Path) -> None:
    """Open a store that is not there, where none can be made."""
    _mount_read_only()
    try:
        Store(root)
    except ComposerError as error:
        pipe.send((type(error).__name__, error.message))


def _mount_read_only() -> None:
    """What a read-only mount answers, at the lowest level."""
    real, writing = os.open, os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def refuse(path: Any, *_: Any, **__: Any) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def only_reading(path: Any, flags: int, *more: Any, **named: Any) -> int:
        return refuse(path) if flags & writing else real(path, flags, *more, **named)

    os.open = only_reading
    os.mkdir = refuse
    os.rename = refuse  # type: ignore[assignment]


def _give_up_permissions(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.geteuid() == 0:  # whom permissions do not stop
        os.setresuid(65534, 65534, 65534)
