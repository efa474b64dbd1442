"""Short ways to fill a store, and to say what must hold of any store."""

from __future__ import annotations

import json
from pathlib import Path

from adapters.store.history import contents
from adapters.store.policy import Policy
from adapters.store.profile import EMPTY_PROFILE, Profile
from adapters.store.store import Store
from adapters.store.version import Version
from tests.support.adapter_files import write_adapter


def commit(store: Store, content: int, alias: str = "polite") -> str:
    """Store an adapter that differs with `content`; its digest."""
    with store.staging() as folder:
        write_adapter(folder / "adapter", lora_alpha=content)
        return store.commit(folder / "adapter", alias, None, {"source": str(content)}).digest


def publish(
    store: Store,
    content: int,
    alias: str = "polite",
    *,
    expected: int | None = None,
    policy: Policy | None = None,
    profile: Profile = EMPTY_PROFILE,
) -> Version:
    """Store an adapter that differs with `content`, and let `alias` stand for it."""
    with store.staging() as folder:
        write_adapter(folder / "adapter", lora_alpha=content)
        stored = store.commit(folder / "adapter", alias, None, {"source": str(content)})
        return store.publish(
            alias,
            stored.digest,
            expected=expected,
            actor="tests",
            origin=stored.origin,
            policy=policy,
            profile=profile,
        )


def lines(root: Path) -> list[dict[str, object]]:
    """The journal, as JSON tells it."""
    return [json.loads(line) for line in (root / "journal.jsonl").read_text().splitlines()]


def check(root: Path, keep: int | None = None) -> list[Version]:
    """Open the store and check that it is whole; all versions, in order.

    Every content in the history is there, or that of the last `keep` versions after pruning; what
    is there is complete; the numbers have no gaps; nothing unfinished is left.
    """
    store = Store(root)
    names = {str(line["alias"]) for line in lines(root)}
    versions = sorted(
        (version for alias in names for version in store.history(alias)),
        key=lambda version: version.sequence,
    )
    assert [version.sequence for version in versions] == list(range(1, len(versions) + 1))
    for alias in names:
        history = store.history(alias)
        assert [version.number for version in history] == list(range(1, len(history) + 1))
        for digest in contents(history, keep or len(history)):
            store.verify(digest)
            assert store.stored(digest).report.digest == digest
    for path in (root / "objects").iterdir():
        store.verify(path.name)
    for alias in store.aliases():
        assert store.current(alias).digest in contents(store.history(alias), 1)
    assert list((root / "staging").iterdir()) == []
    assert {path.name for path in root.iterdir()} == {"journal.jsonl", "lock", "objects", "staging"}
    return versions
