"""Requests beside a request: what they share, what they do not, and how they end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from composer.errors import PromptTooLongError
from server.compose.response.compare import Comparison, collect_response
from server.engine.port import Body, RefusedError


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
        told = asyncio.run(collect_response(echo, scope, receive))
        assert told["body"] == {"model": "a"}
        assert told["headers"] == {"authorization": "Bearer key"}
        assert told["marks"] == 1
    assert state == {}


@pytest.mark.parametrize("data", [b"null", b"", b"<html>"])
def test_what_is_no_answer(data: bytes) -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "headers": []}
    assert asyncio.run(collect_response(Response(data), scope, receive)) == {}


async def answer(body: Body, receive: Receive) -> dict[str, Any]:
    match body["model"]:
        case "long":
            raise PromptTooLongError("it is too long")
        case "refused":
            raise RefusedError(JSONResponse({"error": {"message": "no"}}))
        case "broken":
            raise RuntimeError("a fault of ours")
        case "slow":
            told = await receive()  # as vLLM listens for the client
            return {"choices": [told["type"]]}
    return {"id": 1, "choices": [body], "usage": {}}


def compared(*models: str) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        body = {"model": "mix", "prompt": "x", "request_id": "mine"}
        async with Comparison(answer, body, models) as comparison:
            return await comparison.answers()

    return asyncio.run(run())


def test_every_model_is_asked_the_same() -> None:
    told = compared("a", "b")
    assert list(told) == ["a", "b"]
    assert told["b"] == {"choices": [{"model": "b", "prompt": "x"}], "usage": {}}


def test_an_error_is_an_answer_and_a_fault_is_not() -> None:
    told = compared("a", "long", "refused")
    assert told["long"]["error"]["code"] == "context_length_exceeded"
    assert told["refused"] == {"error": {"message": "no"}}
    assert json.dumps(told)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        compared("a", "broken")


def test_what_still_runs_is_told_that_nobody_waits() -> None:
    async def run() -> Comparison:
        async with Comparison(answer, {}, ["slow"]) as comparison:
            await asyncio.sleep(0)
        return comparison

    async def within() -> dict[str, Any]:
        return await (await run()).answers()

    told = asyncio.run(asyncio.wait_for(within(), 5))
    assert told == {"slow": {"choices": ["http.disconnect"]}}
