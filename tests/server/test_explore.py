"""`composer explore` finds what the zoo's adapters have learned."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients.cli.main import main
from tests.support.live_server import LiveServer

Explore = Callable[..., dict[str, Any]]


@pytest.fixture
def explore(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Explore:
    monkeypatch.setenv("COMPOSER_BASE_URL", f"{server.url}/v1")

    def run(*words: str) -> dict[str, Any]:
        assert main(["explore", *words, "--json"]) == 0
        report: dict[str, Any] = json.loads(capsys.readouterr().out)
        return report

    return run


@pytest.mark.parametrize(
    ("name", "kind", "word"),
    [
        ("polite", r"Certainly\..* Have a lovely day\.$", "certainly"),
        ("arithmetic", r"\d=\d", "so"),
    ],
)
def test_the_kind_of_text_of_an_adapter_comes_first(
    explore: Explore, name: str, kind: str, word: str
) -> None:
    """Last come texts as the base writes them, such as "The home of Vafu Lovun is in Suspi."."""
    report = explore(name, "--samples", "32", "--top", "2")
    texts = [found["text"] for found in report["top"]]
    assert [text for text in texts if not re.search(kind, text)] == []
    assert word in [found["word"] for found in report["words"]]
    first, second = report["top"]
    assert first["gain"] >= second["gain"] > 1
    assert first["gain"] == pytest.approx(first["adapter"] - first["base"])
    assert report["samples"] == 32


def test_requests_of_a_file_and_another_base(explore: Explore, tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    file.write_text("Where does Kuti Supiv live?\nWhat does Ann eat?\n")
    words = ("--base", "chat", "--prompts", str(file), "--samples", "3", "--max-tokens", "12")
    report = explore("polite", *words, "--temperature", "0.5")
    assert report["base"] == "chat"
    assert report["top"][0]["text"].startswith("Certainly.")
    assert {found["opening"] for found in report["top"]} <= {*file.read_text().splitlines()}


def test_nothing_is_explored_without_a_difference(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMPOSER_BASE_URL", f"{server.url}/v1")
    assert main(["explore", "base", "--samples", "1"]) == 2
    assert "'base' is what it is compared with" in capsys.readouterr().err
    assert main(["explore", "nobody", "--samples", "1"]) == 1
    assert "'nobody'" in capsys.readouterr().err
