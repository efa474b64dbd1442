"""How the server ends, with real processes: the scenarios of the claim that need them most."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bench.claims.lifecycle import DRAIN_S, SCENARIOS, Check
from bench.machine.server import running
from server.http.drain import DrainMiddleware
from server.lifecycle import ENGINE_DIED, Lifecycle


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize(
    ("scenario", "multiprocessing"),
    [("SIGTERM to the group", "0"), ("engine killed", "0"), ("front end killed", "1")],
)
def test_the_end(scenario: str, multiprocessing: str) -> None:
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": multiprocessing}
    with running(environment, ("--drain-seconds", str(DRAIN_S))) as server:
        check = Check(server)
        SCENARIOS[scenario](check)
        check.expect_nothing_left()
        assert not check.deviations, server.text()[-4000:]


START: Message = {
    **{"type": "http.response.start", "status": 200},
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
}


async def _endless(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
    await asyncio.Event().wait()


async def _without_events(scope: Scope, receive: Receive, send: Send) -> None:
    """As vLLM streams a request that waits for its first token."""
    await send(START)
    await asyncio.Event().wait()


async def _silent(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


async def _never(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the request was let through")


class Client:
    """One request to an application, and what came back."""

    def __init__(self, lifecycle: Lifecycle, app: ASGIApp, path: str) -> None:
        self.messages: list[Message] = []
        self.scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        self._app = DrainMiddleware(app, lifecycle=lifecycle)

    async def ask(self) -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message: Message) -> None:
            self.messages.append(message)

        await self._app(self.scope, receive, send)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages)


@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("/v1/chat/completions", b"data: [DONE]\n\n"),
        ("/v1/completions", b"data: [DONE]\n\n"),
        ("/v1/messages", b"}\n\n"),
        ("/v1/responses", b'"sequence_number":1}\n\n'),
    ],
)
def test_what_still_streams_at_the_end_gets_an_error_event(path: str, end: bytes) -> None:
    async def run() -> Client:
        lifecycle = Lifecycle(drain_s=0.01)
        client = Client(lifecycle, _endless, path)
        asking = asyncio.create_task(client.ask())
        while not client.body:
            await asyncio.sleep(0)
        lifecycle.signalled(signal.SIGTERM)
        await lifecycle.over()
        await asking
        assert lifecycle.exit_status == 0
        return client

    client = asyncio.run(run())
    event = client.body.removeprefix(b"data: 1\n\n")
    assert b"stopping" in event
    assert event.endswith(end)
    assert not client.messages[-1]["more_body"]


@pytest.mark.parametrize("app", [_silent, _without_events])
def test_what_has_not_begun_gets_an_error_of_its_own(app: ASGIApp) -> None:
    """A router that gets a status of 503 asks another server."""

    async def run() -> Client:
        lifecycle = Lifecycle(drain_s=60)
        client = Client(lifecycle, app, "/v1/completions")
        asking = asyncio.create_task(client.ask())
        await asyncio.sleep(0)
        assert not client.messages
        assert lifecycle.requests_in_flight == 1
        lifecycle.signalled(signal.SIGTERM)
        lifecycle.signalled(signal.SIGINT)
        await lifecycle.over()
        await asking
        assert lifecycle.exit_status == 128 + signal.SIGINT
        return client

    client = asyncio.run(run())
    assert client.status == 503
    assert json.loads(client.body)["error"]["code"] == "unavailable"


def test_new_requests_are_refused_once_the_engine_has_died() -> None:
    async def run() -> Client:
        lifecycle = Lifecycle(drain_s=60)
        lifecycle.engine_died()
        assert lifecycle.problems() == ["engine dead"]
        client = Client(lifecycle, _never, "/v1/completions")
        await client.ask()
        await lifecycle.over()
        assert lifecycle.exit_status == ENGINE_DIED
        return client

    client = asyncio.run(run())
    assert client.status == 503
    assert (b"retry-after", b"5") in client.messages[0]["headers"]
    assert (b"connection", b"close") in client.messages[0]["headers"]
