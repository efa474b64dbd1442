"""The README lists the recipes that exist."""

from __future__ import annotations

from pathlib import Path

from composer.recipes.__main__ import table

README = Path(__file__).resolve().parents[3] / "README.md"


def test_the_readme_shows_every_recipe_as_it_is() -> None:
    shown = README.read_text(encoding="utf-8").split("<!-- recipes:", 1)[1]
    shown = shown.split("-->", 1)[1].split("<!-- /recipes -->")[0]
    assert shown.strip() == table(), "run `python -m composer.recipes` and paste its output"
