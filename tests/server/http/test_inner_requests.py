"""Requests on behalf of a request: what they share, what they do not, and how they end."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from server.http.inner_requests import InnerRequests, collect_response


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers what it was asked, and leaves a mark in the state, as vLLM does."""
    request = Request(scope, receive)
    told = {"headers": dict(request.headers), "body": await request.json(), "marks": 0}
    told["marks"] = request.state.marks = getattr(request.state, "marks", 0) + 1
    await JSONResponse(told)(scope, receive, send)


def test_requests_share_neither_id_nor_state() -> None:
    state: dict[str, Any] = {}
    headers = [(b"x-request-id", b"mine"), (b"authorization", b"Bearer key")]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "state": state}

    async def receive() -> Message:
        return {"type": "http.request", "body": b'{"model": "a"}', "more_body": False}

    for _ in range(2):
        told = asyncio.run(collect_response(echo, scope, receive)).json_object()
        assert told["body"] == {"model": "a"}
        assert told["headers"] == {"authorization": "Bearer key"}
        assert told["marks"] == 1
    assert state == {}


@pytest.mark.parametrize("data", [b"null", b"", b"<html>"])
def test_what_is_no_answer(data: bytes) -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "headers": []}
    assert asyncio.run(collect_response(Response(data), scope, receive)).json_object() == {}


def test_an_error_ends_those_that_run_and_drops_those_that_wait() -> None:
    """Two run at once: one fails, the other is told that nobody waits, the third never begins."""
    begun, told = [], []

    async def ask(name: str, receive: Receive) -> None:
        begun.append(name)
        if name == "fails":
            raise ValueError(name)
        told.append((name, (await receive())["type"]))

    async def run() -> None:
        async with InnerRequests(at_once=2) as requests:
            names = ("runs", "fails", "waits")
            await requests.results([requests.start(partial(ask, name)) for name in names])

    with pytest.raises(ValueError, match="fails"):
        asyncio.run(asyncio.wait_for(run(), 5))
    assert begun[:2] == ["runs", "fails"]
    assert told[0] == ("runs", "http.disconnect")


def test_a_cancelled_wait_disconnects_and_does_not_cancel() -> None:
    """vLLM aborts a request whose client is gone, not one whose task is cancelled."""
    told = []

    async def ask(receive: Receive) -> None:
        told.append((await receive())["type"])

    async def run() -> None:
        async with InnerRequests(at_once=1) as requests:
            await requests.results([requests.start(ask)])

    async def leave() -> None:
        task = asyncio.create_task(run())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    assert told == ["http.disconnect"]
