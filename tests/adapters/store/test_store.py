"""Contents and aliases: what each change leaves behind, in this process and on disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapters.errors import (
    AdapterError,
    AdapterNotFoundError,
    AdapterStoreError,
    VersionConflictError,
)
from adapters.inspection.model_shapes import ModelShapes
from adapters.store.policy import Policy
from adapters.store.profile import EMPTY_PROFILE, Profile
from adapters.store.store import Store
from adapters.store.version import Action, Version
from tests.adapters.store.stores import check, commit, publish
from tests.support.adapter_files import write_adapter, write_base

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "new" / "store"


@pytest.fixture
def store(root: Path) -> Store:
    return Store(root)


# ---- aliases


def test_publish_and_replace(store: Store, root: Path) -> None:
    first = publish(store, 1)
    assert (first.sequence, first.number, first.action) == (1, 1, Action.PUBLISH)
    assert (first.actor, first.origin, first.policy) == ("tests", {"source": "1"}, Policy())
    assert store.current("polite") == first
    other = publish(store, 1, "rude")
    second = publish(store, 2)
    assert (second.sequence, second.number) == (3, 2)
    assert other.digest == first.digest != second.digest
    assert store.aliases() == ("polite", "rude")
    assert store.history("polite") == (first, second)

    again = Store(root)
    assert again.history("polite") == (first, second)
    assert again.current("rude") == other
    assert check(root) == [first, other, second]


def test_the_stored_content_is_that_of_the_source(store: Store, tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "source", lora_alpha=7)
    version = publish(store, 7)
    assert version.digest is not None
    stored = store.stored(version.digest)
    assert stored.path.parent == store.root / "objects"
    for name in (WEIGHTS, CONFIG):
        assert (stored.path / name).read_bytes() == (source / name).read_bytes()
    assert {path.name for path in stored.path.iterdir()} == {WEIGHTS, CONFIG, "generation.json"}
    assert stored.report.rank == 2
    assert stored.report.digest == stored.digest == version.digest == stored.path.name


def test_expected_versions(store: Store) -> None:
    assert publish(store, 1, expected=0).number == 1
    with pytest.raises(VersionConflictError, match=r"'polite' is at version 1, but .* to be new"):
        publish(store, 2, expected=0)
    with pytest.raises(VersionConflictError, match="at version 1, but was expected at version 3"):
        publish(store, 2, expected=3)
    with pytest.raises(VersionConflictError, match="'rude' is not there"):
        publish(store, 2, "rude", expected=1)
    assert publish(store, 2, expected=1).number == 2
    changes: tuple[Callable[[], Version], ...] = (
        lambda: store.rollback("polite", expected=1, actor="tests"),
        lambda: store.delete("polite", expected=1, actor="tests"),
        lambda: store.set_policy("polite", Policy(), expected=1, actor="tests"),
    )
    for change in changes:
        with pytest.raises(VersionConflictError, match="at version 2, but was expected at vers"):
            change()
    assert len(store.history("polite")) == 2


def test_a_deleted_alias_counts_on(store: Store, root: Path) -> None:
    publish(store, 1, policy=Policy(negative=False))
    deleted = store.delete("polite", expected=1, actor="tests")
    assert (deleted.number, deleted.digest, deleted.action) == (2, None, Action.DELETE)
    assert store.aliases() == ()
    for use in (store.current, lambda alias: store.delete(alias, actor="tests")):
        with pytest.raises(AdapterNotFoundError, match="'polite'"):
            use("polite")
    with pytest.raises(AdapterNotFoundError):
        store.set_policy("polite", Policy(), actor="tests")
    with pytest.raises(VersionConflictError, match="not there"):
        publish(store, 1, expected=2)
    back = publish(store, 1, expected=0)
    assert back.number == 3
    assert not back.policy.negative, "deleting an adapter does not lift its restrictions"
    assert [version.action for version in Store(root).history("polite")] == [
        Action.PUBLISH,
        Action.DELETE,
        Action.PUBLISH,
    ]


def test_policies(store: Store) -> None:
    first = publish(store, 1)
    changed = store.set_policy("polite", Policy(compositions=False), expected=1, actor="boss")
    assert (changed.number, changed.action, changed.actor) == (2, Action.POLICY, "boss")
    assert changed.digest == first.digest
    assert publish(store, 2).policy == Policy(compositions=False)
    assert publish(store, 3, policy=Policy()).policy == Policy()
    with pytest.raises(AdapterNotFoundError, match="Did you mean 'polite'"):
        store.set_policy("polit", Policy(), actor="tests")


def test_profiles(store: Store) -> None:
    assert publish(store, 1).profile == EMPTY_PROFILE
    profile = Profile(examples=("Be kind?",), description="manners")
    changed = store.set_profile("polite", profile, expected=1, actor="boss")
    assert (changed.number, changed.action, changed.actor) == (2, Action.PROFILE, "boss")
    assert publish(store, 2).profile == profile
    assert publish(store, 3, profile=Profile(examples=("Sorry?",))).profile == Profile(
        examples=("Sorry?",), description="manners"
    )
    assert store.set_policy("polite", Policy(), actor="tests").profile.examples == ("Sorry?",)
    assert store.rollback("polite", to=1, actor="tests").profile.examples == ("Sorry?",)
    store.delete("polite", actor="tests")
    assert publish(store, 4).profile.examples == ("Sorry?",), "also over a deletion"
    assert store.set_profile("polite", EMPTY_PROFILE, actor="tests").profile == EMPTY_PROFILE
    with pytest.raises(VersionConflictError):
        store.set_profile("polite", profile, expected=1, actor="tests")
    with pytest.raises(AdapterNotFoundError, match="Did you mean 'polite'"):
        store.set_profile("polit", profile, actor="tests")


def test_roll_back_and_forth(store: Store, root: Path) -> None:
    one, two, three = (publish(store, content) for content in (1, 2, 3))
    store.set_policy("polite", Policy(negative=False), actor="tests")
    assert store.rollback_target("polite") == two
    back = store.rollback("polite", expected=4, actor="tests")
    assert (back.number, back.digest, back.origin) == (5, two.digest, {"rollback_to": 2})
    assert back.policy == Policy(negative=False)
    undone = store.rollback("polite", actor="tests")
    assert (undone.digest, undone.origin) == (three.digest, {"rollback_to": 4})
    far = store.rollback("polite", to=1, actor="tests")
    assert far.digest == one.digest
    assert store.rollback("polite", actor="tests").digest == three.digest
    assert [v.number for v in check(root)] == list(range(1, 9))


def test_rolling_back_a_deletion(store: Store) -> None:
    publish(store, 1)
    two = publish(store, 2)
    store.delete("polite", actor="tests")
    back = store.rollback("polite", expected=0, actor="tests")
    assert (back.digest, back.number) == (two.digest, 4)
    assert store.current("polite") == back


def test_where_nothing_can_be_rolled_back(store: Store) -> None:
    with pytest.raises(AdapterNotFoundError, match="no adapter is called 'polite'"):
        store.rollback("polite", actor="tests")
    publish(store, 1)
    with pytest.raises(VersionConflictError, match="never had another content"):
        store.rollback("polite", actor="tests")
    store.delete("polite", actor="tests")
    publish(store, 1)
    with pytest.raises(VersionConflictError, match="never had another content"):
        store.rollback("polite", actor="tests")
    with pytest.raises(VersionConflictError, match="version 2 of 'polite' is its deletion"):
        store.rollback("polite", to=2, actor="tests")
    with pytest.raises(VersionConflictError, match="has the content of version 1 now"):
        store.rollback("polite", to=1, actor="tests")
    for number in (0, -1, 4):
        with pytest.raises(AdapterNotFoundError, match=f"no version {number}. It has .* 1 to 3"):
            store.rollback("polite", to=number, actor="tests")
    assert len(store.history("polite")) == 3


@pytest.mark.parametrize("alias", ["base", "", "1st", "a b", "a/b", "..", "x" * 65, "ä", "a\n"])
def test_names_are_plain(store: Store, root: Path, alias: str) -> None:
    digest = commit(store, 1)
    with pytest.raises(AdapterError, match=r"the name"):
        store.publish(alias, digest, actor="tests", origin={})
    assert (root / "journal.jsonl").read_bytes() == b""


def test_unknown_names(store: Store) -> None:
    for use in (store.current, store.history):
        with pytest.raises(AdapterNotFoundError, match=r"'nobody'\. Publish it first"):
            use("nobody")
    for digest in ("0" * 64, "../journal.jsonl", "", "A" * 64):
        for use_digest in (store.stored, store.verify):
            with pytest.raises(AdapterNotFoundError, match="is stored"):
                use_digest(digest)
        with pytest.raises(AdapterNotFoundError, match="is stored"):
            store.publish("polite", digest, actor="tests", origin={})


def test_the_clock_may_go_back(root: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def clock() -> datetime:
        nonlocal now
        now -= timedelta(hours=1)
        return now

    store = Store(root, clock)
    versions = [publish(store, content) for content in (1, 2, 3)]
    versions.append(store.rollback("polite", actor="tests"))
    times = [version.time for version in versions]
    assert times == sorted(times, reverse=True)
    assert times[0] == "2025-12-31T23:00:00.000+00:00"
    assert check(root) == versions
    assert Store(root).current("polite").digest == versions[1].digest


def test_threads_publish_one_after_the_other(store: Store, root: Path) -> None:
    digests = [commit(store, content) for content in (1, 2)]

    def work(number: int) -> None:
        for turn in range(5):
            digest = digests[(number + turn) % 2]
            store.publish(f"alias{number % 2}", digest, actor=str(number), origin={})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(check(root)) == 30
    assert [len(store.history(alias)) for alias in store.aliases()] == [15, 15]


# ---- contents


def test_commit_inspects(store: Store, root: Path, tmp_path: Path) -> None:
    base = ModelShapes.read(write_base(tmp_path / "base", hidden=16))
    with store.staging() as folder:
        write_adapter(folder / "adapter")
        with pytest.raises(AdapterError, match="shape"):
            store.commit(folder / "adapter", "polite", base, {})
        with pytest.raises(AdapterError, match="'base'"):
            store.commit(folder / "adapter", "base", None, {})
    assert list((root / "objects").iterdir()) == []
    assert list((root / "staging").iterdir()) == []


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_links_are_no_content(store: Store, root: Path, tmp_path: Path, name: str) -> None:
    source = write_adapter(tmp_path / "source")
    with store.staging() as folder:
        write_adapter(folder / "adapter")
        (folder / "adapter" / name).unlink()
        (folder / "adapter" / name).symlink_to(source / name)
        with pytest.raises(AdapterError, match=f"{name} is a symbolic link"):
            store.commit(folder / "adapter", "polite", None, {})
    assert list((root / "objects").iterdir()) == []


def test_only_staged_folders_are_moved(store: Store, tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "source")
    with pytest.raises(ValueError, match="source"):
        store.commit(source, "polite", None, {})
    assert {path.name for path in source.iterdir()} == {WEIGHTS, CONFIG}


def test_other_files_stay_behind(store: Store) -> None:
    with store.staging() as folder:
        write_adapter(folder / "adapter")
        (folder / "adapter" / "run_me.py").write_text("raise SystemExit")
        stored = store.commit(folder / "adapter", "polite", None, {})
    assert {path.name for path in stored.path.iterdir()} == {WEIGHTS, CONFIG, "generation.json"}


def test_the_same_content_again_stays_as_it_is(store: Store) -> None:
    with store.staging() as folder:
        write_adapter(folder / "one")
        write_adapter(folder / "two")
        first = store.commit(folder / "one", "polite", None, {"source": "first"})
        inode = (first.path / WEIGHTS).stat().st_ino
        again = store.commit(folder / "two", "polite", None, {"source": "again"})
    assert again.digest == first.digest
    assert again.origin == {"source": "again"}
    assert store.stored(first.digest).origin == {"source": "first"}
    assert (first.path / WEIGHTS).stat().st_ino == inode


def truncate(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray((path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (path / WEIGHTS).write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated weights": truncate(WEIGHTS),
    "truncated config": truncate(CONFIG),
    "truncated generation.json": lambda path: (path / "generation.json").write_bytes(b'{"rep'),
    "another report": lambda path: (path / "generation.json").write_text('{"sizes": 1}'),
    "no object": lambda path: (path / "generation.json").write_text("[]"),
    "missing weights": lambda path: (path / WEIGHTS).unlink(),
    "missing generation.json": lambda path: (path / "generation.json").unlink(),
    "a flipped bit": flip,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_mended(store: Store, root: Path, damage: str) -> None:
    version = publish(store, 1)
    assert version.digest is not None
    store.verify(version.digest)
    DAMAGES[damage](root / "objects" / version.digest)
    for opened in (store, Store(root)):
        with pytest.raises(AdapterStoreError, match=f"{version.digest} is damaged"):
            opened.verify(version.digest)
        if damage != "a flipped bit":  # seen without reading the content
            with pytest.raises(AdapterStoreError, match=f"{version.digest} is damaged"):
                opened.stored(version.digest)
        with pytest.raises(AdapterStoreError, match="damaged"):
            opened.publish("rude", version.digest, actor="tests", origin={})
    assert store.aliases() == ("polite",)

    publish(store, 1, "rude")  # the same content, from its source
    store.verify(version.digest)
    Store(root).verify(version.digest)
    check(root)


def test_damage_of_a_rollback_target_stops_the_rollback(store: Store, root: Path) -> None:
    first, second = publish(store, 1), publish(store, 2)
    assert first.digest is not None
    flip(root / "objects" / first.digest)
    with pytest.raises(AdapterStoreError, match="damaged"):
        store.rollback("polite", actor="tests")
    assert store.current("polite") == second


def test_verify_reads_again_what_was_written_since(store: Store, root: Path) -> None:
    version = publish(store, 1)
    assert version.digest is not None
    folder = root / "objects" / version.digest
    before = (folder / WEIGHTS).stat()
    flip(folder)
    os.utime(folder / WEIGHTS, ns=(before.st_atime_ns, before.st_mtime_ns))
    store.verify(version.digest)  # nothing tells that it was written: it is not read again
    with pytest.raises(AdapterStoreError, match="its content has the digest"):
        Store(root).verify(version.digest)
    (folder / WEIGHTS).touch()
    with pytest.raises(AdapterStoreError, match="its content has the digest"):
        store.verify(version.digest)


# ---- staging and prune


def test_a_staging_folder_is_private_and_goes(store: Store, root: Path) -> None:
    with store.staging() as folder, store.staging() as other:
        assert folder != other
        assert list(folder.iterdir()) == []
        (folder / "file").write_text("x")
        assert folder.is_relative_to(root / "staging")
        Store(root)  # sweeps, but not what lives
        assert (folder / "file").read_text() == "x"
    assert list((root / "staging").iterdir()) == []
    with pytest.raises(RuntimeError, match="of the caller"), store.staging():
        raise RuntimeError("of the caller")
    assert list((root / "staging").iterdir()) == []


def test_what_dead_owners_left_is_swept(store: Store, root: Path) -> None:
    for name in ("killed before it was locked", "killed later"):
        (root / "staging" / name / "files").mkdir(parents=True)
    (root / "staging" / "killed later" / "lock").touch()
    with store.staging() as alive:
        Store(root)
        assert [path.name for path in (root / "staging").iterdir()] == [alive.parent.name]


def test_prune_keeps_what_is_named(store: Store, root: Path) -> None:
    digests = [str(publish(store, content).digest) for content in (1, 2, 3)]
    store.set_policy("polite", Policy(negative=False), actor="tests")
    store.set_profile("polite", Profile(examples=("Please?",)), actor="tests")
    rude = str(publish(store, 4, "rude").digest)
    store.delete("rude", actor="tests")
    orphan = commit(store, 5)
    assert set(store.prune(2)) == {digests[0], orphan}
    assert store.prune(2) == ()
    assert {path.name for path in (root / "objects").iterdir()} == {*digests[1:], rude}
    with pytest.raises(AdapterNotFoundError, match=f"'{digests[0]}' is stored: it was pruned"):
        store.rollback("polite", to=1, actor="tests")
    assert store.rollback("polite", actor="tests").digest == digests[1]
    assert set(store.prune(1)) == {digests[2], rude}
    store.verify(digests[1])
    assert Store(root).current("polite").digest == digests[1]
    assert publish(store, 1).digest == digests[0], "a pruned content can be published again"
    with pytest.raises(ValueError, match="keep is 0"):
        store.prune(0)


def test_prune_spares_what_is_about_to_be_published(store: Store, root: Path) -> None:
    with store.staging() as folder:
        write_adapter(folder / "adapter")
        digest = store.commit(folder / "adapter", "polite", None, {}).digest
        assert Store(root).prune(1) == ()
        store.publish("polite", digest, actor="tests", origin={})
    assert store.prune(1) == ()
    with store.staging() as folder:
        write_adapter(folder / "adapter", lora_alpha=9)
        forgotten = store.commit(folder / "adapter", "polite", None, {}).digest
    assert store.prune(1) == (forgotten,)
    assert list((root / "staging").iterdir()) == []


# ---- opening


def test_a_lost_journal_is_no_new_store(store: Store, root: Path) -> None:
    publish(store, 1)
    (root / "journal.jsonl").unlink()
    with pytest.raises(AdapterStoreError, match=r"journal.jsonl is missing, though there are"):
        Store(root)
    (root / "journal.jsonl").touch()
    assert Store(root).aliases() == ()


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(AdapterStoreError, match="cannot open"):
        Store(tmp_path / "store")


def test_a_store_behind_a_link(store: Store, root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    linked = Store(tmp_path / "link")
    version = publish(linked, 1)
    assert store.refresh() == (version,)
    assert version.digest is not None
    assert linked.stored(version.digest).path == store.stored(version.digest).path
