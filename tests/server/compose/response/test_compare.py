"""Requests beside a request: what is compared, and how they end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive

from composer.errors import PromptTooLongError
from server.compose.response.compare import Comparison
from server.engine.port import Body, RefusedError


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
