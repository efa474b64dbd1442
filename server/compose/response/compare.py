"""The same request to each expert alone, beside the composed one (`"compare": true`)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from starlette.types import Receive

from composer.errors import ComposerError
from server.engine.port import Body, RefusedError
from server.errors import error_body
from server.http.inner_requests import InnerRequests

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
        self._requests = InnerRequests(at_once=max(len(models), 1))
        self._tasks = {
            model: self._requests.start(partial(_answer, ask, shared | {"model": model}))
            for model in models
        }

    async def answers(self) -> dict[str, Any]:
        """Return text and usage, or the error, of each model."""
        results = await self._requests.results(list(self._tasks.values()))
        return dict(zip(self._tasks, results, strict=True))

    async def __aenter__(self) -> Comparison:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._requests.__aexit__(*raised)


async def _answer(ask: AskModel, body: Body, receive: Receive) -> dict[str, Any]:
    try:
        response = await ask(body, receive)
    except ComposerError as error:
        response = error_body(error)
    except RefusedError as error:
        response = json.loads(bytes(error.response.body))
    return {name: response[name] for name in _COMPARED_FIELDS if name in response}
