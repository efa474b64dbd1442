"""Make methods of the clients from functions that build calls, with the same typed signature.

A call's parameters are thus written once for the blocking, the awaited and the streamed method.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from clients.call import Call, GenerationCall

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class Sender(Protocol):
    def send(self, call: Call[R]) -> R: ...
    def stream(self, call: GenerationCall[R, C]) -> Generator[C, None, None]: ...


class AsyncSender(Protocol):
    async def send(self, call: Call[R]) -> R: ...
    def stream(self, call: GenerationCall[R, C]) -> AsyncGenerator[C, None]: ...


def sends(build: Callable[P, Call[R]]) -> Callable[Concatenate[Sender, P], R]:
    def method(self: Sender, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.send(build(*args, **kwargs))

    return _described(method, build)


def sends_stream(
    build: Callable[P, GenerationCall[R, C]],
) -> Callable[Concatenate[Sender, P], Generator[C, None, None]]:
    def method(self: Sender, /, *args: P.args, **kwargs: P.kwargs) -> Generator[C, None, None]:
        return self.stream(build(*args, **kwargs))

    return _described(method, build)


def awaits(build: Callable[P, Call[R]]) -> Callable[Concatenate[AsyncSender, P], Awaitable[R]]:
    def method(self: AsyncSender, /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        return self.send(build(*args, **kwargs))

    return _described(method, build)


def awaits_stream(
    build: Callable[P, GenerationCall[R, C]],
) -> Callable[Concatenate[AsyncSender, P], AsyncGenerator[C, None]]:
    def method(self: AsyncSender, /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[C, None]:
        return self.stream(build(*args, **kwargs))

    return _described(method, build)


F = TypeVar("F", bound=Callable[..., object])


def _described(method: F, build: Callable[..., object]) -> F:
    """Give `method` the docstring and parameters of `build`, for `help()` and editors."""
    self = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    signature = inspect.signature(build)
    parameters = [self, *signature.parameters.values()]
    described: Any = method
    described.__doc__ = build.__doc__
    described.__signature__ = signature.replace(parameters=parameters)
    return method
