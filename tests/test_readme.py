"""The README and the pages of docs/ are run, and print what they show.

support/readme_blocks.py has the rules.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from experts.base_model import base_model
from experts.cache import PackageUnavailable
from tests.support.live_server import LiveServer
from tests.support.made_server import KEY, make_serve
from tests.support.readme_blocks import Block, matches, read_blocks

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
BLOCKS = {page.stem: read_blocks(page.read_text(encoding="utf-8")) for page in PAGES}
SHOWN_ADDRESS = re.compile(r"(?:127\.0\.0\.1|localhost):8000")


def blocks(*kinds: str) -> list[object]:
    return [
        pytest.param(block, id=f"{page}:{block.line}")
        for page, shown in BLOCKS.items()
        for block in shown
        if block.kind in kinds
    ]


def requests() -> list[object]:
    """Each block that sends requests, with the fixture of the server that its page is about."""
    return [
        pytest.param(block, "readme_server" if page == "README" else "docs_server", id=id)
        for page, shown in BLOCKS.items()
        for block in shown
        if block.kind in ("request", "python")
        for id in [f"{page}:{block.line}"]
    ]


def test_the_readme_shows_how_to_start_and_how_to_ask() -> None:
    assert {"setup", "request"} <= {block.kind for block in BLOCKS["README"]}


@pytest.mark.parametrize("block", blocks("setup"))
def test_setup_names_real_targets(block: Block) -> None:
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "make":
            done = subprocess.run(
                ["make", "--no-print-directory", "-n", *words[1:]],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        else:
            assert words[:2] == ["git", "clone"] or words[:1] in ([], ["cd"]), line


@pytest.fixture(scope="module")
def readme_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The README shows SmolLM2; without its package `make serve` serves the zoo."""
    try:
        base_model()
    except PackageUnavailable as error:
        pytest.skip(str(error))
    with make_serve(tmp_path_factory.mktemp("readme") / "log.txt") as live:
        yield live


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the PATH with this environment's `python` and `composer`."""
    folder = tmp_path_factory.mktemp("bin")
    for name, command in (("python", ""), ("python3", ""), ("composer", "-m clients.cli.main")):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    return folder


@pytest.mark.parametrize(("block", "fixture"), requests())
def test_what_is_shown_is_printed(
    block: Block, fixture: str, tools: Path, request: pytest.FixtureRequest
) -> None:
    live: LiveServer = request.getfixturevalue(fixture)
    address = live.url.removeprefix("http://")
    text = SHOWN_ADDRESS.sub(address, block.text)
    command = (
        [sys.executable, "-c", text]
        if block.kind == "python"
        else ["bash", "-euo", "pipefail", "-c", text]
    )
    environment = {
        **os.environ,
        "COMPOSER_BASE_URL": f"http://{address}/v1",
        "COMPOSER_ADMIN_KEY": KEY,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "no_proxy": "127.0.0.1,localhost",
    }
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    if block.answer is not None:
        assert matches(block.answer, done.stdout), (
            f"shown:\n{block.answer}\nprinted:\n{done.stdout}"
        )
