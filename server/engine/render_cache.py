"""The prompts of one request, templated and tokenized once.

The front end renders a composed request to learn its tokens, and vLLM's route renders the same
request again. A `RenderCache` keeps what vLLM's renderer returned for one request; while the cache
is active, an equal call is answered from it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, TypeAlias

from pydantic import BaseModel

Render: TypeAlias = Callable[..., Awaitable[Any]]

_METHODS = ("render_chat_async", "render_cmpl_async")
"""Methods of vLLM's `BaseRenderer` that turn conversations and texts into token ids."""


class RenderCache:
    """Results of vLLM's renderer for one request, by method and arguments."""

    def __init__(self) -> None:
        self._results: dict[str, Any] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within this context, and in tasks started there, vLLM's renderer uses this cache."""
        token = _active_cache.set(self)
        try:
            yield
        finally:
            _active_cache.reset(token)

    @contextmanager
    def active_once(self) -> Iterator[None]:
        """As `active`; empty the cache at the end, because tasks may outlive the request."""
        try:
            with self.active():
                yield
        finally:
            self._results.clear()

    async def render(self, method: str, render: Render, *args: Any, **kwargs: Any) -> Any:
        """Return what `render` returns for these arguments, calling it at most once."""
        key = _key(method, args, kwargs)
        if key is None:
            return await render(*args, **kwargs)
        if key not in self._results:
            self._results[key] = await render(*args, **kwargs)
        return _copy(self._results[key])


_active_cache: ContextVar[RenderCache | None] = ContextVar("active_render_cache", default=None)


def install_render_cache(renderer: Any) -> None:
    """Have a `BaseRenderer` look into the active cache first. Without one it works as before."""
    for method in _METHODS:
        setattr(renderer, method, _with_cache(method, getattr(renderer, method)))


def _with_cache(method: str, render: Render) -> Render:
    @wraps(render)
    async def cached(*args: Any, **kwargs: Any) -> Any:
        cache = _active_cache.get()
        if cache is None:
            return await render(*args, **kwargs)
        return await cache.render(method, render, *args, **kwargs)

    return cached


def _key(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Return the arguments as JSON, so that later changes in place do not matter.

    None where they hold anything but JSON values, dataclasses and pydantic models: iterators, for
    example, are equal only to themselves.
    """
    try:
        return json.dumps([method, args, kwargs], default=_field_values)
    except (TypeError, ValueError, RecursionError):
        return None


def _field_values(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return {"type": type(value).__name__, **value.model_dump()}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"{type(value)} has no key")


def _copy(result: Any) -> Any:
    """Copy the engine inputs of a result, which vLLM's routes may add to."""
    if isinstance(result, tuple):  # conversations and their engine inputs
        conversations, inputs = result
        return conversations, _copy(inputs)
    return [dict(engine_input) for engine_input in result]
