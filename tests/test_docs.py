"""What README.md and docs/ say about the code is true of the code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import composer.mixtures.routers.__main__ as routers
import composer.recipes.__main__ as recipes
from adapters.weight_space.merge import __main__ as merges
from composer.recipes import RECIPES
from server import server_options
from server.auth.access_control import ALLOWED, KEYLESS
from server.auth.keys import Role
from server.option_values import read_admin_key
from tests.support.bounds_table import bounds_table

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "bench/README.md", "zoo/README.md")),
    ROOT / "deploy" / "README.md",
    *(ROOT / "bench" / name for name in ("RESULTS.md", "reproduce/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
)
OPERATING = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
OF_OTHERS = {
    "--ssl-certfile",
    "--ssl-keyfile",
    "--enable-log-requests",
    "--otlp-traces-endpoint",
    "--structured-outputs-config",
    "--kv-cache-memory-bytes",
    "--max-num-seqs",
    "--max-loras",
    "--max-cpu-loras",
    "--stop-timeout",
}
"""Options of vLLM, and of Docker."""


@pytest.mark.parametrize(
    ("page", "name", "table"),
    [
        ("choosing-a-method", "recipes", recipes.table),
        ("routing", "routers", routers.table),
        ("adapters", "merges", merges.table),
        ("operating", "bounds", bounds_table),
    ],
)
def test_generated_tables_are_up_to_date(page: str, name: str, table: Callable[[], str]) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    shown = text.split(f"<!-- {name}:", 1)[1].split("-->", 1)[1].split(f"<!-- /{name} -->")[0]
    assert shown.strip() == table(), f"put there:\n{table()}"


def test_the_readme_is_short_and_names_every_recipe() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 200
    assert [recipe.name for recipe in RECIPES if f"| `{recipe.name}` |" not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, section = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if section:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [
                re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles
            ]
            assert section in anchors, target


def test_keys_that_are_named_are_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    keys = [key for text in texts for key in re.findall(r"COMPOSER_ADMIN_KEY=([\w-]+)", text)]
    assert keys
    for key in keys:
        monkeypatch.setenv("COMPOSER_ADMIN_KEY", key)
        assert read_admin_key(None) == key


def test_paths_of_the_life_of_a_request_exist() -> None:
    text = (ROOT / "docs" / "life-of-a-request.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:server|composer|adapters|clients)/[a-z0-9_/.]*)`", text)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_options_that_are_named_exist() -> None:
    known = server_options.option_names()
    named = set(re.findall(r"`(--[a-z-]+)", OPERATING))
    assert named - OF_OTHERS <= known, f"no such option: {sorted(named - OF_OTHERS - known)}"


def test_routes_and_roles_that_are_named_exist() -> None:
    assert all(path in OPERATING for path in KEYLESS | {"/metrics", "/openapi.json"})
    assert all(path.rsplit("/", 1)[-1] in OPERATING.replace(" ", "/") for path in ALLOWED)
    assert re.findall(r"^\| `([a-z]+)` \| [a-z]", OPERATING, re.M) == [str(role) for role in Role]


def test_measured_figures_are_those_of_the_reproductions() -> None:
    page = (ROOT / "docs" / "choosing-a-method.md").read_text(encoding="utf-8")
    shown = page.split("## What it brought", 1)[1].split("\nWhere a method failed", 1)[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in shown.splitlines()
        if line.startswith("| `")
    ]
    pages = {
        "Z": ROOT / "bench" / "reproduce" / "README.md",
        "S": ROOT / "bench" / "reproduce" / "real" / "README.md",
    }
    assert len(rows) == 9
    for method, model, _, before, after, _ in rows:
        source = pages[model].read_text(encoding="utf-8")
        assert f"| {before} |" in source, (method, before)
        assert f"| {after} |" in source, (method, after)
