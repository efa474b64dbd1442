"""The command line `composer`, asking the real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clients.cli.main import main
from tests.support.live_server import LiveServer


def base_url(server: LiveServer) -> str:
    return f"{server.url}/v1"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Composer = Callable[..., Done]


@pytest.fixture
def composer(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Composer:
    monkeypatch.setenv("COMPOSER_BASE_URL", base_url(server))

    def run(*words: object) -> Done:
        code = main([str(word) for word in words])
        return Done(code, *capsys.readouterr())

    return run


def write(file: Path, items: list[dict[str, Any]]) -> Path:
    file.write_text("".join(f"{json.dumps(item)}\n" for item in items), encoding="utf-8")
    return file
