"""The README lists the methods that exist."""

from __future__ import annotations

from pathlib import Path

from adapters.weight_space.merge.__main__ import table

README = Path(__file__).resolve().parents[4] / "README.md"


def test_the_readme_shows_every_method_as_it_is() -> None:
    shown = README.read_text(encoding="utf-8").split("<!-- merges:", 1)[1]
    shown = shown.split("-->", 1)[1].split("<!-- /merges -->")[0]
    assert shown.strip() == table(), "paste what `python -m adapters.weight_space.merge` prints"
