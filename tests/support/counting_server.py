"""`python -m tests.support.counting_server`: the server, which counts what its renderer does.

GET /live answers with the header `x-counts`: how often a chat template was applied, a text
tokenized and a composition parsed, since the start. A request with the header `x-render-again` is
rendered anew for each caller.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from composer.plan import Plan
from server import __main__
from server import app as server_app
from server.auth.keys import Key
from server.compose.catalogue import Catalogue
from server.compose.incoming.request_fields import FIELD
from server.engine.port import Engine
from server.engine.render_cache import RenderCache

_TEMPLATES, _TEXTS = "_apply_chat_template_async", "_tokenize_prompt_async"
_PLANS = "parse"
_calls: Counter[str] = Counter()
_again: ContextVar[bool] = ContextVar("render_again", default=False)
_assemble = server_app.assemble
_render = RenderCache.render
_parse = Catalogue.parse


def _counted(name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(call)
    async def counted(*args: Any, **kwargs: Any) -> Any:
        _calls[name] += 1
        return await call(*args, **kwargs)

    return counted


async def _assemble_counting(
    app: FastAPI, engine: Engine, deployment: server_app.Deployment
) -> ASGIApp:
    served = await _assemble(app, engine, deployment)
    renderer = app.state.online_renderer.renderer
    for method in (_TEMPLATES, _TEXTS):
        setattr(renderer, method, _counted(method, getattr(renderer, method)))

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_counts(message: Message) -> None:
            if message["type"] == "http.response.start":
                counts = f"{_calls[_TEMPLATES]} {_calls[_TEXTS]} {_calls[_PLANS]}"
                header = (b"x-counts", counts.encode())
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        if scope["type"] == "http" and "x-render-again" in Headers(scope=scope):
            _again.set(True)
        await served(scope, receive, send_counts if scope.get("path") == "/live" else send)

    return counting


async def _render_again(self: RenderCache, method: str, render: Any, *args: Any, **kw: Any) -> Any:
    if _again.get():
        return await render(*args, **kw)
    return await _render(self, method, render, *args, **kw)


def _parse_counting(
    self: Catalogue, composition: object, param: str = FIELD, key: Key | None = None
) -> Plan:
    _calls[_PLANS] += 1
    return _parse(self, composition, param, key)


if __name__ == "__main__":
    Catalogue.parse = _parse_counting  # type: ignore[method-assign]
    server_app.assemble = _assemble_counting
    RenderCache.render = _render_again  # type: ignore[method-assign]
    sys.exit(__main__.main())
