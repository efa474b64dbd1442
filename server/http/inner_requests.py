"""Requests that the server makes to its own application, on behalf of one request of a client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope

from server.request_record import HEADER

T = TypeVar("T")

_ID = HEADER.lower().encode()

_FOR_THE_CLIENT = (b"retry-after",)
"""Headers of a response that the client gets, too."""


class InnerRequests:
    """Tasks that run such requests.

    Leaving the context disconnects the requests that still run, so that vLLM aborts them, and drops
    those that wait.
    """

    def __init__(self, at_once: int) -> None:
        """`at_once`: how many run at the same time."""
        self._gate = asyncio.Semaphore(at_once)
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []

    def start(self, ask: Callable[[Receive], Awaitable[T]]) -> asyncio.Task[T]:
        """Run `ask` in a task; `Receive` supplies its disconnect message."""

        async def run() -> T:
            async with self._gate:
                if self._over.is_set():
                    raise asyncio.CancelledError
                return await ask(self._receive)

        task = asyncio.create_task(run())
        self._tasks.append(task)
        return task

    async def results(self, tasks: Sequence[asyncio.Task[T]]) -> list[T]:
        """Return the results of tasks, or raise the first error as soon as there is one.

        Unlike `asyncio.gather`, this cancels no task when it is cancelled: vLLM aborts requests
        that are disconnected, and not those whose task is cancelled.
        """
        if tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        return [task.result() for task in tasks]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _receive(self) -> Message:
        await self._over.wait()
        return {"type": "http.disconnect"}


@dataclass(frozen=True, slots=True)
class InnerResponse:
    """What the application answered; the status is 0 if it ended without an answer."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def json_object(self) -> dict[str, Any]:
        """Return the JSON object of the body; an empty one if it holds anything else."""
        try:
            value = json.loads(self.body)
        except ValueError:  # the client disconnected before the response
            value = {}
        return value if isinstance(value, dict) else {}

    def for_client(self) -> Response:
        """Return the response, to be sent as that of the client's own request."""
        response = Response(self.body, self.status, media_type="application/json")
        response.raw_headers += [(k, v) for k, v in self.headers if k.lower() in _FOR_THE_CLIENT]
        return response


async def collect_response(
    app: ASGIApp, scope: Scope, receive: Receive, request_id: str | None = None
) -> InnerResponse:
    """Run a request through an application and return its response.

    The request gets a copy of the scope's state, because applications keep values there, and
    `request_id`, or none, in place of the client's id.
    """
    headers = [(k, v) for k, v in scope["headers"] if k.lower() != _ID]
    if request_id is not None:
        headers.append((_ID, request_id.encode()))
    copied = {"headers": headers, "state": dict(scope.get("state", {}))}
    start: Message = {"status": 0, "headers": ()}
    body = b""

    async def send(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            start = message
        body += message.get("body", b"")

    await app({**scope, **copied}, receive, send)
    return InnerResponse(start["status"], tuple(start["headers"]), body)
