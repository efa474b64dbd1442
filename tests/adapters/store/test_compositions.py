"""Stored compositions: owners, versions, and one name for one thing in all servers of a store."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from pydantic import JsonValue

from adapters import (
    AdapterStoreError,
    CompositionLimitError,
    CompositionNotFoundError,
    CompositionOwnerError,
    Compositions,
    CompositionVersion,
    NameTakenError,
    Store,
    VersionConflictError,
)
from composer.errors import CompositionSchemaError
from tests.adapters.store.stores import publish


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(
    compositions: Compositions,
    name: str,
    content: JsonValue,
    key: str = "alice",
    expected: int | None = None,
    limit: int | None = None,
) -> CompositionVersion:
    return compositions.put(
        name, content, key=key, owner=key, actor=key, expected=expected, limit=limit
    )


def test_another_server_and_a_restart_find_what_was_stored(store: Store) -> None:
    other = Store(store.root)
    first = put(store.compositions, "kind", "base + 0.5*polite")
    assert (first.number, first.sequence, first.owner) == (1, 1, "alice")
    assert "kind" not in other.compositions
    assert other.refresh() == ()
    assert other.followed == 1
    assert other.compositions.get("kind") == first
    second = put(other.compositions, "kind", {"formula": "base"})
    assert (second.number, second.sequence) == (2, 2)
    again = Store(store.root)
    assert again.compositions.history("kind") == (first, second)
    assert again.compositions.all() == (second,)
    assert again.followed == 2


def test_the_life_of_a_name(store: Store) -> None:
    compositions = store.compositions
    put(compositions, "kind", "base")
    put(compositions, "kind", "polite")
    back = compositions.rollback("kind", key="alice", actor="alice")
    assert (back.content, back.number, back.origin) == ("base", 3, {"rollback_to": 1})
    gone = compositions.delete("kind", key="alice", actor="alice")
    assert (gone.content, gone.number) == (None, 4)
    assert "kind" not in compositions
    with pytest.raises(CompositionNotFoundError, match="'kind'"):
        compositions.get("kind")
    with pytest.raises(CompositionNotFoundError, match="'kind'"):
        compositions.delete("kind", key="alice", actor="alice")
    assert compositions.rollback("kind", key="alice", actor="alice", to=2).content == "polite"
    actions = [version.action.value for version in compositions.history("kind")]
    assert actions == ["publish", "publish", "rollback", "delete", "rollback"]
    for to, problem in ((4, "is its deletion"), (2, "has the content of version 2 now")):
        with pytest.raises(VersionConflictError, match=problem):
            compositions.rollback("kind", key="alice", actor="alice", to=to)
    for to in (0, 6):
        with pytest.raises(CompositionNotFoundError, match=f"no version {to}"):
            compositions.rollback("kind", key="alice", actor="alice", to=to)


def test_compare_and_swap(store: Store) -> None:
    put(store.compositions, "kind", "base", expected=0)
    for expected in (0, 2):
        with pytest.raises(VersionConflictError, match="expected"):
            put(store.compositions, "kind", "polite", expected=expected)
    put(store.compositions, "kind", "polite", expected=1)
    with pytest.raises(VersionConflictError):
        store.compositions.delete("kind", key="alice", actor="alice", expected=1)
    with pytest.raises(VersionConflictError):
        store.compositions.rollback("kind", key="alice", actor="alice", expected=1)
    assert store.compositions.get("kind").content == "polite"


def test_only_the_owner_and_administrators_change_it(store: Store) -> None:
    compositions = store.compositions
    put(compositions, "kind", "base")
    with pytest.raises(CompositionOwnerError, match="another key"):
        put(compositions, "kind", "rude", key="bob")
    with pytest.raises(CompositionOwnerError):
        compositions.delete("kind", key="bob", actor="bob")
    changed = compositions.put("kind", "polite", key=None, owner="admin", actor="admin")
    assert changed.owner == "alice"
    with pytest.raises(CompositionOwnerError):
        compositions.rollback("kind", key="bob", actor="bob")
    compositions.delete("kind", key="alice", actor="alice")
    # The name is free for everybody, and what was there is not.
    assert put(compositions, "kind", "rude", key="bob").owner == "bob"
    with pytest.raises(CompositionOwnerError):
        compositions.rollback("kind", key="bob", actor="bob", to=1)
    assert compositions.rollback("kind", key=None, actor="admin", to=1).owner == "alice"


def test_the_limit_of_a_key(store: Store) -> None:
    compositions = store.compositions
    for n in range(2):
        put(compositions, f"c{n}", "base", limit=2)
    with pytest.raises(CompositionLimitError, match="--max-compositions-per-key"):
        put(compositions, "c2", "base", limit=2)
    put(compositions, "c1", "polite", limit=2)  # replacing is no more
    put(compositions, "c2", "base", key="bob", limit=2)
    compositions.delete("c0", key="alice", actor="alice")
    put(compositions, "c3", "base", limit=2)
    with pytest.raises(CompositionLimitError):
        compositions.rollback("c0", key="alice", actor="alice", to=1, limit=2)


def test_one_name_is_one_thing_in_all_servers(store: Store) -> None:
    """Neither of the two servers has read what the other one wrote."""
    other = Store(store.root)
    publish(store, 1)
    with pytest.raises(NameTakenError, match="names an adapter"):
        put(other.compositions, "polite", "base")
    put(other.compositions, "kind", "base")
    with pytest.raises(NameTakenError, match="names a stored composition"):
        publish(store, 1, "kind")
    other.delete("polite", actor="me")
    put(store.compositions, "polite", "base")
    with pytest.raises(NameTakenError):
        other.rollback("polite", actor="me")
    store.compositions.delete("polite", key="alice", actor="alice")
    other.rollback("polite", actor="me")
    with pytest.raises(NameTakenError):
        store.compositions.rollback("polite", key="alice", actor="alice")


def test_many_at_once_leave_one_winner(store: Store) -> None:
    stores = [store, Store(store.root)]
    won, lost = [], []

    def race(n: int) -> None:
        try:
            won.append(put(stores[n % 2].compositions, "kind", n, expected=0))
        except VersionConflictError as error:
            lost.append(error)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)


def test_an_old_journal_is_read(store: Store) -> None:
    """Its lines know neither compositions nor profiles."""
    publish(store, 1)
    journal = store.root / "journal.jsonl"
    line = json.loads(journal.read_text())
    del line["profile"]
    journal.write_text(json.dumps(line) + "\n")
    again = Store(store.root)
    assert again.aliases() == ("polite",)
    assert put(again.compositions, "kind", "base").sequence == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("composition", "a b"),
        ("content", None),
        ("owner", 3),
        ("sequence", True),
        ("action", "policy"),
        ("more", 1),
    ],
)
def test_damage_is_an_error(store: Store, field: str, value: object) -> None:
    put(store.compositions, "kind", "base")
    journal = store.root / "journal.jsonl"
    journal.write_text(json.dumps(json.loads(journal.read_text()) | {field: value}) + "\n")
    with pytest.raises(AdapterStoreError, match=r"line 1 of .* is damaged"):
        Store(store.root)


@pytest.mark.parametrize("name", ["", "1st", "a b", "a/b", "../etc", "x" * 65, "ä", "a\n", "a:b"])
def test_names_are_plain(store: Store, name: str) -> None:
    with pytest.raises(CompositionSchemaError, match="cannot name a composition"):
        put(store.compositions, name, "base")


def test_large_ones_are_refused(store: Store) -> None:
    with pytest.raises(CompositionSchemaError, match="65536"):
        put(store.compositions, "kind", "x" * 65536)
    assert store.compositions.all() == ()


def test_followed_counts_what_refresh_has_returned(store: Store) -> None:
    """A reader that was told position 2 must have seen line 1 of the other server."""
    other = Store(store.root)
    publish(other, 1)
    put(store.compositions, "kind", "base")  # reads line 1 on its way
    assert store.followed == 0
    assert [version.alias for version in store.refresh()] == ["polite"]
    assert store.followed == 2
