"""The same request to each expert alone, beside the composed one (`"compare": true`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope

from composer.errors import ComposerError
from server.engine.port import Body, RefusedError
from server.errors import error_body

AskModel = Callable[[Body, Receive], Awaitable[dict[str, Any]]]
"""Runs a request through the application; `Receive` supplies its disconnect message."""

_COMPARED_FIELDS = ("choices", "output", "content", "stop_reason", "usage", "error")
"""Fields of a response that are compared: the text in the format of the route, and the usage."""

_UNIQUE_FIELDS = ("request_id",)
"""Fields of a request that no two requests may share."""


class Comparison:
    """The answers of several models to one request.

    Leaving the context disconnects the requests that still run, so that vLLM aborts them.
    """

    def __init__(self, ask: AskModel, body: Body, models: Sequence[str]) -> None:
        shared = {name: value for name, value in body.items() if name not in _UNIQUE_FIELDS}
        self._over = asyncio.Event()
        self._tasks = {
            model: asyncio.create_task(_answer(ask, shared | {"model": model}, self._receive))
            for model in models
        }

    async def answers(self) -> dict[str, Any]:
        """Return text and usage, or the error, of each model."""
        await asyncio.gather(*self._tasks.values())
        return {model: task.result() for model, task in self._tasks.items()}

    async def __aenter__(self) -> Comparison:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _receive(self) -> Message:
        await self._over.wait()
        return {"type": "http.disconnect"}


async def _answer(ask: AskModel, body: Body, receive: Receive) -> dict[str, Any]:
    try:
        response = await ask(body, receive)
    except ComposerError as error:
        response = error_body(error)
    except RefusedError as error:
        response = json.loads(bytes(error.response.body))
    return {name: response[name] for name in _COMPARED_FIELDS if name in response}


async def collect_response(app: ASGIApp, scope: Scope, receive: Receive) -> dict[str, Any]:
    """Run a request through an application and return the JSON object of its response or error.

    The request gets a copy of the scope's state, because applications keep values there.
    """
    headers = [(k, v) for k, v in scope["headers"] if k.lower() != b"x-request-id"]
    copied = {"headers": headers, "state": dict(scope.get("state", {}))}
    body = b""

    async def send(message: Message) -> None:
        nonlocal body
        body += message.get("body", b"")

    await app({**scope, **copied}, receive, send)
    try:
        response = json.loads(body)
    except ValueError:  # the client disconnected before the response
        response = {}
    return response if isinstance(response, dict) else {}
