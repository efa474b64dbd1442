"""The same request to each expert alone, beside the composed one (`"compare": true`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope

from composer.errors import ComposerError
from server.engine.port import Body, RefusedError
from server.errors import error_body

Ask = Callable[[Body, Receive], Awaitable[dict[str, Any]]]
"""Answers a request as if a client had sent it, one whose connection says no more than `Receive`
does."""

_SHOWN = ("choices", "output", "content", "stop_reason", "usage", "error")
"""What of an answer is compared: the text in the format of its route, and what it took."""

_OWN = ("request_id",)
"""Fields that name one request, and so cannot be those of several."""


class Comparison:
    """What each of several models answers to a request.

    `async with` ends what still runs, as if its client had gone: vLLM stops computing for no other
    reason.
    """

    def __init__(self, ask: Ask, body: Body, models: Sequence[str]) -> None:
        same = {k: v for k, v in body.items() if k not in _OWN}
        self._over = asyncio.Event()
        self._tasks = {
            model: asyncio.create_task(_told(ask, same | {"model": model}, self._gone))
            for model in models
        }

    async def answers(self) -> dict[str, Any]:
        """By model: its text and usage, or the error that it gave."""
        await asyncio.gather(*self._tasks.values())
        return {model: task.result() for model, task in self._tasks.items()}

    async def __aenter__(self) -> Comparison:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _gone(self) -> Message:
        await self._over.wait()
        return {"type": "http.disconnect"}


async def _told(ask: Ask, body: Body, receive: Receive) -> dict[str, Any]:
    try:
        answer = await ask(body, receive)
    except ComposerError as error:
        answer = error_body(error)
    except RefusedError as error:
        answer = json.loads(bytes(error.response.body))
    return {name: answer[name] for name in _SHOWN if name in answer}


async def collected(app: ASGIApp, scope: Scope, receive: Receive) -> dict[str, Any]:
    """What an application answers in JSON, errors too.

    Its scope is a copy: requests keep things in there.
    """
    headers = [(k, v) for k, v in scope["headers"] if k.lower() != b"x-request-id"]
    own: Mapping[str, Any] = {"headers": headers, "state": dict(scope.get("state", {}))}
    body = b""

    async def send(message: Message) -> None:
        nonlocal body
        body += message.get("body", b"")

    await app({**scope, **own}, receive, send)
    try:
        answer = json.loads(body)
    except ValueError:  # the client has gone, and nothing was answered
        answer = {}
    return answer if isinstance(answer, dict) else {}
