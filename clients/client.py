"""The two clients: one blocks, one awaits. Both only send calls; the calls know the API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

import httpx

from clients import adapter_calls, calls, composition_calls, errors
from clients.call import Call, GenerationCall
from clients.client_settings import ClientSettings, Timeouts
from clients.last_change import LastChange
from clients.methods import awaits, awaits_stream, sends, sends_stream
from clients.scoring import scoring_calls
from clients.streams import ChunkReader
from clients.upload_body import prepared

R = TypeVar("R")
C = TypeVar("C")


class Client:
    """A client that blocks until the answer arrives. Threads may share it; close it, or use `with`.

    Args:
        base_url: the server, with or without /v1; default COMPOSER_BASE_URL or the local server,
            http://127.0.0.1:8000/v1.
        api_key: sent as a bearer token; default COMPOSER_API_KEY or none. Calls that change
            adapters need a key that may publish.
        timeouts: seconds to wait for each phase; no request is repeated.
        reads_writes: make every server read the --adapter-store as far as this client knows it, so
            that a change through one server is visible on the next; for servers behind a balancer
            that share a store.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeouts: Timeouts | None = None,
        reads_writes: bool = False,
    ) -> None:
        self.settings = ClientSettings.resolve(base_url, api_key, timeouts)
        store = LastChange()
        self._http = httpx.Client(
            base_url=self.settings.base_url,
            headers=self.settings.headers,
            timeout=self.settings.timeout,
            trust_env=self.settings.uses_proxy,
            event_hooks={"request": [store.ask], "response": [store.learn]} if reads_writes else {},
        )

    def send(self, call: Call[R]) -> R:
        with prepared(self._http, call) as request, _connection_errors(self.settings):
            response = self._http.send(request)
        return call.read(response.status_code, response.content, str(response.url))

    def stream(self, call: GenerationCall[R, C]) -> Generator[C, None, None]:
        """Yield the chunks as they arrive; the first `next` sends the request.

        Closing the generator, or dropping it unfinished, aborts the request on the server.
        """
        reader = ChunkReader(call.parse_chunk, call.parse_first)
        request = self._http.build_request(
            call.method, call.path, json=call.stream_body(), headers=dict(call.headers)
        )
        with _connection_errors(self.settings):
            response = self._http.send(request, stream=True)
        try:
            if response.status_code != 200:
                call.read(response.status_code, response.read(), str(response.url))
            with _stream_errors():
                for data in response.iter_bytes():
                    yield from reader.feed(data)
                    if reader.done:
                        break
            reader.finish()
        finally:
            response.close()

    chat = sends(calls.chat)
    stream_chat = sends_stream(calls.chat)
    complete = sends(calls.complete)
    stream_complete = sends_stream(calls.complete)
    models = sends(calls.list_models)
    score = sends(scoring_calls.score)
    fit = sends(scoring_calls.fit)
    sweep = sends(scoring_calls.sweep)
    list_compositions = sends(composition_calls.list_compositions)
    get_composition = sends(composition_calls.get_composition)
    composition_history = sends(composition_calls.composition_history)
    put_composition = sends(composition_calls.put_composition)
    rollback_composition = sends(composition_calls.rollback_composition)
    delete_composition = sends(composition_calls.delete_composition)
    list_adapters = sends(adapter_calls.list_adapters)
    get_adapter = sends(adapter_calls.get_adapter)
    adapter_history = sends(adapter_calls.adapter_history)
    put_adapter = sends(adapter_calls.put_adapter)
    rollback_adapter = sends(adapter_calls.rollback_adapter)
    delete_adapter = sends(adapter_calls.delete_adapter)
    set_policy = sends(adapter_calls.set_policy)
    set_profile = sends(adapter_calls.set_profile)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient:
    """`Client` for `async` code: await calls, read streams with `async for`."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeouts: Timeouts | None = None,
        reads_writes: bool = False,
    ) -> None:
        self.settings = ClientSettings.resolve(base_url, api_key, timeouts)
        store = LastChange()
        self._http = httpx.AsyncClient(
            base_url=self.settings.base_url,
            headers=self.settings.headers,
            timeout=self.settings.timeout,
            trust_env=self.settings.uses_proxy,
            event_hooks={"request": [store.ask_async], "response": [store.learn_async]}
            if reads_writes
            else {},
        )

    async def send(self, call: Call[R]) -> R:
        with prepared(self._http, call) as request, _connection_errors(self.settings):
            response = await self._http.send(request)
        return call.read(response.status_code, response.content, str(response.url))

    async def stream(self, call: GenerationCall[R, C]) -> AsyncGenerator[C, None]:
        """Yield the chunks as they arrive.

        Wrap a loop that may be left early in `contextlib.aclosing`, which aborts the request at
        once.
        """
        reader = ChunkReader(call.parse_chunk, call.parse_first)
        request = self._http.build_request(
            call.method, call.path, json=call.stream_body(), headers=dict(call.headers)
        )
        with _connection_errors(self.settings):
            response = await self._http.send(request, stream=True)
        try:
            if response.status_code != 200:
                call.read(response.status_code, await response.aread(), str(response.url))
            with _stream_errors():
                async for data in response.aiter_bytes():
                    for chunk in reader.feed(data):
                        yield chunk
                    if reader.done:
                        break
            reader.finish()
        finally:
            await response.aclose()

    chat = awaits(calls.chat)
    stream_chat = awaits_stream(calls.chat)
    complete = awaits(calls.complete)
    stream_complete = awaits_stream(calls.complete)
    models = awaits(calls.list_models)
    score = awaits(scoring_calls.score)
    fit = awaits(scoring_calls.fit)
    sweep = awaits(scoring_calls.sweep)
    list_compositions = awaits(composition_calls.list_compositions)
    get_composition = awaits(composition_calls.get_composition)
    composition_history = awaits(composition_calls.composition_history)
    put_composition = awaits(composition_calls.put_composition)
    rollback_composition = awaits(composition_calls.rollback_composition)
    delete_composition = awaits(composition_calls.delete_composition)
    list_adapters = awaits(adapter_calls.list_adapters)
    get_adapter = awaits(adapter_calls.get_adapter)
    adapter_history = awaits(adapter_calls.adapter_history)
    put_adapter = awaits(adapter_calls.put_adapter)
    rollback_adapter = awaits(adapter_calls.rollback_adapter)
    delete_adapter = awaits(adapter_calls.delete_adapter)
    set_policy = awaits(adapter_calls.set_policy)
    set_profile = awaits(adapter_calls.set_profile)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


@contextmanager
def _connection_errors(settings: ClientSettings) -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException as error:
        raise errors.ConnectionFailed(
            f"{settings.base_url} did not answer in time ({type(error).__name__}); "
            f"{_remedy(error, settings.timeouts)}"
        ) from error
    except httpx.HTTPError as error:
        raise errors.ConnectionFailed(
            f"no answer from {settings.base_url} ({str(error) or type(error).__name__}); "
            "is the server running?"
        ) from error


def _remedy(error: httpx.TimeoutException, timeouts: Timeouts) -> str:
    if not isinstance(error, httpx.ReadTimeout):
        return "see clients.client_settings.Timeouts"
    return (
        f"it was silent for {timeouts.read_s:g} s, as it is until an answer is complete: "
        "ask for fewer tokens (max_tokens), stream the answer, or raise Timeouts.read_s"
    )


@contextmanager
def _stream_errors() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise errors.StreamError(f"the connection broke in the stream: {reason}") from error
