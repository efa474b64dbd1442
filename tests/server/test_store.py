"""Stored compositions, with the real file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from composer.errors import CompositionSchemaError
from server.errors import CompositionNotFoundError, StoreError
from server.store import CompositionStore


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "compositions.json"


def test_a_restart_finds_what_was_stored(file: Path) -> None:
    store = CompositionStore(file)
    assert store.put("kind", "base + 0.5*polite")
    assert store.put("sharp", {"recipe": "proxy_tuning", "expert": "rude"})
    assert not store.put("kind", "base + polite")

    again = CompositionStore(file)
    assert again.names() == ("kind", "sharp")
    assert again.get("kind") == "base + polite"
    assert again.get("sharp") == {"recipe": "proxy_tuning", "expert": "rude"}
    again.delete("kind")
    assert CompositionStore(file).names() == ("sharp",)


def test_without_a_file_it_forgets() -> None:
    store = CompositionStore(None)
    store.put("kind", "base")
    assert "kind" in store
    assert "kind" not in CompositionStore(None)


def test_unknown_names(file: Path) -> None:
    store = CompositionStore(file)
    with pytest.raises(CompositionNotFoundError, match="'nobody'"):
        store.get("nobody")
    with pytest.raises(CompositionNotFoundError, match="'nobody'"):
        store.delete("nobody")


@pytest.mark.parametrize("name", ["", "1st", "a b", "a/b", "../etc", "x" * 65, "ä", "a\n"])
def test_names_are_plain(file: Path, name: str) -> None:
    with pytest.raises(CompositionSchemaError, match="cannot name a composition"):
        CompositionStore(file).put(name, "base")
    assert not file.exists()


def test_the_file_holds_one_whole_version(file: Path) -> None:
    store = CompositionStore(file)
    for number in range(20):
        store.put(f"c{number}", "base")
        assert len(json.loads(file.read_text())["compositions"]) == number + 1
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_failed_write_changes_nothing(file: Path) -> None:
    store = CompositionStore(file)
    store.put("kind", "base")
    file.unlink()
    file.mkdir()  # no file can be renamed over a folder
    with pytest.raises(StoreError, match="cannot be written"):
        store.put("sharp", "base")
    assert store.names() == ("kind",)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 2, "compositions": {}}', "{}"])
def test_other_files_are_left_alone(file: Path, content: str) -> None:
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(StoreError):
        CompositionStore(file)
    assert file.read_text() == content
