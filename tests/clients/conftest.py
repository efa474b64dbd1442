"""A loopback server for each file, both clients behind one face, and the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Protocol

import pytest
from fastapi import FastAPI

from clients import AsyncClient, Client
from clients.cli.main import main
from clients.client_settings import Timeouts
from tests.clients.loopback import make_app
from tests.support.served_app import served


class Caller(Protocol):
    """Either client, used the same way: `call("chat", "Hi")`, `chunks("stream_chat", "Hi")`."""

    def call(self, name: str, *args: Any, **options: Any) -> Any: ...
    def chunks(self, name: str, *args: Any, **options: Any) -> list[Any]: ...


class Blocking:
    def __init__(self, url: str, timeouts: Timeouts | None = None) -> None:
        self._url, self._timeouts = url, timeouts

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        with Client(self._url, timeouts=self._timeouts) as client:
            return getattr(client, name)(*args, **options)

    def chunks(self, name: str, *args: Any, **options: Any) -> list[Any]:
        with Client(self._url, timeouts=self._timeouts) as client:
            return list(getattr(client, name)(*args, **options))


class Awaiting(Blocking):
    def call(self, name: str, *args: Any, **options: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(self._url, timeouts=self._timeouts) as client:
                return await getattr(client, name)(*args, **options)

        return asyncio.run(run())

    def chunks(self, name: str, *args: Any, **options: Any) -> list[Any]:
        async def run() -> list[Any]:
            async with AsyncClient(self._url, timeouts=self._timeouts) as client:
                return [chunk async for chunk in getattr(client, name)(*args, **options)]

        return asyncio.run(run())


KINDS: dict[str, type[Blocking]] = {"blocking": Blocking, "awaiting": Awaiting}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """An application of its own for each file: what one stores, no other finds."""
    return make_app()


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    with served(app) as url:
        yield url


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> type[Blocking]:
    return KINDS[request.param]


@pytest.fixture
def caller(kind: type[Blocking], url: str) -> Caller:
    return kind(url)


class Composer:
    """Runs a command line; returns exit code, output and errors."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        code = main(words)
        return code, *self._capsys.readouterr()


@pytest.fixture
def composer(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Composer:
    monkeypatch.setenv("COMPOSER_BASE_URL", url)
    return Composer(capsys)
