"""A small HTTP application that behaves well or badly, as the request's `model` asks.

What it does is real HTTP over a real socket; only the language model behind it is missing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from tests.clients.admin_loopback import DIGEST, router

PLAN = {"plan": {"formula": "base + 0.8*polite"}, "rows": 2}
ROUTING = {
    "weights": {"chat": 0.25, "polite": 0.75},
    "tokens": ["polite", {"chat": 0.5, "polite": 0.5}],
    "answers": [{"weights": {"chat": 1.0}}],
    "missing": ["rude"],
}
ALONE = {
    "polite": {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Certainly."}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    },
    "rude": {"error": {"message": "no room", "code": "group_too_large"}},
}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
WORDS = ("Good\u2028 ", "évening", "!")
"""The first has a line separator that JSON does not escape; it is one event all the same."""


def make_app() -> FastAPI:
    app = FastAPI()
    app.include_router(router)
    app.state.disconnected = threading.Event()
    stored: dict[str, Any] = {}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        if "composition" in body and request.headers.get("x-composer-expect") != "composition":
            return _error(417)
        model = "lost" if body.get("composition") == "lost" else body["model"]
        if model.startswith("status-"):
            return _error(int(model.removeprefix("status-")))
        if model == "no-json":
            return Response("<html>welcome</html>", media_type="text/html")
        if model == "silent":
            await _gone(request)
        if body.get("stream"):
            events = _stream(model, request)
            return StreamingResponse(events, media_type="text/event-stream")
        echo = {"body": body, "key": request.headers.get("authorization")}
        answer = _answer(model, message={"role": "assistant", "content": _text(echo)})
        return JSONResponse(answer | ({"comparison": ALONE} if body.get("compare") else {}))

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        body = await request.json()
        if body.get("stream"):
            lines = [_event(_answer("base", text=word)) for word in WORDS]
            return Response("".join([*lines, "data: [DONE]\n\n"]), media_type="text/event-stream")
        logprobs = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}]}
        answer = _answer("base", text=_text({"body": body}), logprobs=logprobs)
        alone = {"rude": {"choices": [{"index": 0, "text": "Ugh"}], "usage": USAGE}}
        return JSONResponse(answer | ({"comparison": alone} if body.get("compare") else {}))

    @app.get("/v1/models")
    async def models() -> Any:
        return {"data": [{"id": "base"}, {"id": "polite", "parent": "base", "digest": "ab12"}]}

    def entry(name: str, request: Request) -> Response:
        """What a name stands for; `origin` tells which conditions the request had."""
        if name not in stored:
            return _error(404)
        conditions = ("if-match", "if-none-match", "x-composer-store")
        asked = {key: request.headers[key] for key in conditions if key in request.headers}
        version = {"version": 3, "action": "publish", "time": "now", "origin": asked}
        content = {"composition": stored[name], "plan": PLAN["plan"]}
        headers = {"X-Composer-Store": "17"}
        return JSONResponse({"name": name, **version, **content}, headers=headers)

    @app.get("/v1/compositions")
    async def compositions() -> Any:
        version = {"version": 3, "action": "publish", "time": "now"}
        return {"data": [{"name": n, "composition": c, **version} for n, c in stored.items()]}

    @app.get("/v1/compositions/{name:path}/history")
    async def history(name: str) -> Any:
        versions: list[dict[str, Any]] = [
            {"version": 1, "action": "publish", "composition": "base", "owner": "me"},
            {"version": 2, "action": "publish", "private": True},
            {"version": 3, "action": "delete"},
        ]
        return {"data": [{"name": name, "time": "now", **version} for version in versions]}

    @app.get("/v1/compositions/{name:path}")
    async def get(name: str, request: Request) -> Response:
        return entry(name, request)

    @app.put("/v1/compositions/{name:path}")
    async def put(name: str, request: Request) -> Response:
        if name == "base":
            return _error(409)
        stored[name] = await request.json()
        return entry(name, request)

    @app.post("/v1/compositions/{name:path}/rollback")
    async def rollback(name: str, request: Request) -> Response:
        body = await request.body()
        stored[name] = json.loads(body) if body else "the one before"
        return entry(name, request)

    @app.delete("/v1/compositions/{name:path}")
    async def delete(name: str, request: Request) -> Response:
        if name not in stored:
            return _error(404)
        if request.headers.get("if-match") == '"1"':
            return _error(409)
        del stored[name]
        return Response(status_code=204)

    @app.get("/v1/moved")
    async def moved() -> Response:
        return Response(status_code=307, headers={"location": "/v1/models"})

    return app


async def _stream(model: str, request: Request) -> AsyncIterator[bytes]:
    yield b": a comment, to be ignored\r\n\r\n"
    for index, word in enumerate(WORDS):
        extra = _computed(model) if index == 0 else {}
        yield _event({**_answer(model, delta={"content": word}), **extra}).encode()
        if model == "endless":
            await _gone(request)
            request.app.state.disconnected.set()
            return
        if model == "stream-cut":
            return  # a proper end of the body, but without [DONE]
        if model == "stream-broken":
            raise ConnectionAbortedError("the server dies in the middle of the body")
        if model == "stream-garbage":
            yield b"data: {no json\n\n"
        if model == "stream-foreign":
            yield b'data: {"unexpected": true}\n\n'
        if model == "stream-error":
            error = {"message": "the engine died", "code": "engine_fault", "param": None}
            yield _event({"error": error}).encode()
    routing = {"composition": {**PLAN, "routing": ROUTING}} if model == "auto" else {}
    yield _event({**_answer(model), "choices": [], "usage": USAGE, **routing}).encode()
    yield b"data: [DONE]\n\n"


async def _gone(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer(model: str, **choice: Any) -> dict[str, Any]:
    choices = [{"index": 0, "finish_reason": None, **choice}]
    answer = {"id": "a-1", "object": "any", "created": 1, "model": model, "choices": choices}
    return answer if "delta" in choice else {**answer, "usage": USAGE, **_computed(model)}


def _computed(model: str) -> dict[str, Any]:
    """Return what an answer, or its first and last chunk, reports about its computation.

    `lost` is a request whose composition a gateway dropped.
    """
    if model == "lost":
        return {}
    adapters = {"adapters": {"polite": DIGEST}} if model == "polite" else {}
    composition = {**PLAN, "routing": ROUTING} if model == "auto" else PLAN
    return {"composition": composition, **adapters}


def _error(status: int) -> JSONResponse:
    error = {
        "message": f"this is error {status}" if status != 400 else "this is\n  error 400",
        "type": "any",
        "param": "model",
        "code": f"code_{status}",
    }
    return JSONResponse({"error": error}, status_code=status)


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _event(value: object) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
