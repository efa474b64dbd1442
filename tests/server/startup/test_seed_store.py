"""Adapters and examples of the command line, at the first start and at later ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters import Policy, Profile, Store
from server.startup.seed_store import ACTOR, publish_seeds, read_examples
from tests.support.adapter_files import write_adapter


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_adapter(tmp_path / "polite")
    return tmp_path / "polite"


def start(store: Store, folder: Path, *examples: str) -> Profile:
    """Start with one adapter and examples for it; the profile that it has then."""
    profiles = {"polite": Profile(examples=examples)} if examples else {}
    publish_seeds(store, [("polite", folder)], None, profiles)
    return store.current("polite").profile


def test_examples_are_published_with_their_adapter(store: Store, folder: Path) -> None:
    assert start(store, folder, "one") == Profile(examples=("one",))
    assert start(store, folder, "one") == Profile(examples=("one",))
    assert len(store.history("polite")) == 1


def test_new_examples_reach_an_adapter_that_is_there(store: Store, folder: Path) -> None:
    start(store, folder)
    store.set_profile(
        "polite", Profile(examples=("their", "own"), description="manners"), actor="boss"
    )
    assert start(store, folder, "one") == Profile(examples=("one",), description="manners")
    assert start(store, folder).examples == ("one",), "none given: they stay"
    assert [version.actor for version in store.history("polite")] == [ACTOR, "boss", ACTOR]


def test_what_was_changed_since_stays(store: Store, folder: Path) -> None:
    start(store, folder, "one")
    store.set_profile("polite", Profile(examples=("two",)), actor="boss")
    store.set_policy("polite", Policy(negative=False), actor="boss")
    assert start(store, folder, "one") == Profile(examples=("two",))
    write_adapter(folder.parent / "new", lora_alpha=3)
    assert start(store, folder.parent / "new", "one") == Profile(examples=("one",)), (
        "a new content brings its examples"
    )


def test_the_lines_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "examples.txt"
    file.write_text("\n Could you? \n\nPlease?\n", encoding="utf-8")
    assert read_examples("polite", file) == Profile(examples=("Could you?", "Please?"))
    file.write_bytes(b"\n")
    with pytest.raises(ValueError, match=r"polite=.*examples\.txt: the file is empty"):
        read_examples("polite", file)
    file.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"polite=.*utf-8"):
        read_examples("polite", file)
    with pytest.raises(ValueError, match="No such file"):
        read_examples("polite", tmp_path / "nothing")
