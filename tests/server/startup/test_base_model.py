"""Finding the base model's files, without the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.startup.base_model import find_folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of the Hugging Face hub that holds one model in two revisions."""
    repository = tmp_path / "models--org--tiny"
    for commit, revision in (("a" * 40, "main"), ("b" * 40, "v2")):
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    return tmp_path


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert find_folder(str(tmp_path), ()) == tmp_path


@pytest.mark.parametrize(
    ("flags", "commit"), [((), "a"), (("--revision", "v2"), "b"), (("--revision=v2",), "b")]
)
def test_what_was_downloaded_before(cache: Path, flags: tuple[str, ...], commit: str) -> None:
    found = find_folder("org/tiny", ("--download-dir", str(cache), *flags))
    assert found == cache / "models--org--tiny" / "snapshots" / (commit * 40)


def test_neither_a_folder_nor_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no model"):
        find_folder(str(tmp_path / "nowhere"), ())
