"""Results appear when they are whole, and never in the place of something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.errors import MergeError
from adapters.output import new_folder


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_appears_at_the_end(tmp_path: Path, exists: bool) -> None:
    out = tmp_path / "deep" / "out" if not exists else tmp_path / "out"
    if exists:
        out.mkdir()
    with new_folder(out) as folder:
        (folder / "file").write_text("whole")
        assert not (out / "file").exists()
    assert (out / "file").read_text() == "whole"
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_after_a_failure_all_is_as_before(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    def fail(out: Path) -> None:
        with new_folder(out) as folder:
            (folder / "file").write_text("half")
            raise ZeroDivisionError

    for name in ("out", "other"):
        with pytest.raises(ZeroDivisionError):
            fail(tmp_path / name)
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


def race(out: Path) -> None:
    """Somebody else makes the folder while we compute."""
    with new_folder(out) as folder:
        (folder / "ours").write_text("")
        out.mkdir()
        (out / "theirs").write_text("")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "theirs").write_text("")
    (tmp_path / "file").write_text("")
    for name in ("full", "file"):
        with (
            pytest.raises(MergeError, match=f"{name}' exists already"),
            new_folder(tmp_path / name),
        ):
            pytest.fail("it may not begin")
    out = tmp_path / "out"
    with pytest.raises(MergeError, match="was made meanwhile"):
        race(out)
    assert [p.name for p in out.iterdir()] == ["theirs"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "full", "out"]


def test_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with new_folder(tmp_path / "link") as folder:
        (folder / "file").write_text("")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").exists()
