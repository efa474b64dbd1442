"""Both clients against a real server on the loopback."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import aclosing
from typing import Any

import pytest
from fastapi import FastAPI

from clients import (
    ApiError,
    AsyncClient,
    BadRequest,
    Client,
    CompositionLost,
    Conflict,
    ConnectionFailed,
    Forbidden,
    InvalidResponse,
    NotFound,
    RateLimited,
    ServerError,
    StreamError,
)
from clients.call import Call
from clients.client_settings import Timeouts
from tests.clients.conftest import Blocking, Caller
from tests.clients.loopback import WORDS


def sent(answer: Any) -> dict[str, Any]:
    """The request's body, which the loopback server echoes as the answer's text."""
    body: dict[str, Any] = json.loads(answer.text)["body"]
    return body


def test_chat_sends_what_was_given_and_nothing_else(caller: Caller) -> None:
    answer = caller.call("chat", "Hi", composition="base + 0.8*polite", temperature=0.0, stop=["."])
    assert sent(answer) == {
        "messages": [{"role": "user", "content": "Hi"}],
        "model": "base",
        "composition": "base + 0.8*polite",
        "temperature": 0.0,
        "stop": ["."],
    }
    assert answer.usage.total_tokens == 5
    assert answer.composition.rows == 2
    assert answer.composition.plan["formula"] == "base + 0.8*polite"


def test_what_a_router_did_and_each_expert_alone(caller: Caller) -> None:
    answer = caller.call("chat", "Hi", model="auto", compare=True)
    assert sent(answer)["compare"] is True
    routing = answer.composition.routing
    assert routing.weights == {"chat": 0.25, "polite": 0.75}
    assert routing.tokens == ("polite", {"chat": 0.5, "polite": 0.5})
    assert routing.answers[0].weights == {"chat": 1.0}
    assert routing.missing == ("rude",)
    assert answer.comparison["polite"].text == "Certainly."
    assert answer.comparison["rude"].error["code"] == "group_too_large"
    assert caller.call("complete", "Hi", compare=True).comparison["rude"].text == "Ugh"
    assert caller.call("chat", "Hi").comparison is None
    last = caller.chunks("stream_chat", "Hi", model="auto")[-1]
    assert last.composition.routing == routing


def test_a_lost_composition_is_an_error(caller: Caller) -> None:
    with pytest.raises(CompositionLost, match="dropped the field 'composition'"):
        caller.call("chat", "Hi", composition="lost")
    with pytest.raises(CompositionLost, match="dropped the field 'composition'"):
        caller.chunks("stream_chat", "Hi", composition="lost")
    with pytest.raises(CompositionLost):
        caller.call("chat", "Hi", extra={"composition": "lost"})
    assert caller.call("chat", "Hi", composition="base").composition.rows == 2
    assert len(caller.chunks("stream_chat", "Hi", composition="base")) == len(WORDS) + 1
    assert caller.call("chat", "Hi", model="lost").composition is None


def test_complete_reads_logprobs(caller: Caller) -> None:
    answer = caller.call("complete", (1, 2), logprobs=0, extra={"min_tokens": 1})
    assert sent(answer) == {"prompt": [1, 2], "model": "base", "logprobs": 0, "min_tokens": 1}
    assert answer.choices[0].logprobs.top_logprobs == ({"a": -0.5},)


def test_unknown_fields_of_an_answer_are_kept(caller: Caller) -> None:
    assert [model.id for model in caller.call("models")] == ["base", "polite"]
    assert caller.call("models")[1].digest == "ab12"


def test_chat_streams(caller: Caller) -> None:
    chunks = caller.chunks("stream_chat", "Hi", model="polite")
    assert "".join(chunk.text for chunk in chunks) == "".join(WORDS)
    assert [chunk.composition is not None for chunk in chunks] == [True, False, False, True]
    assert chunks[-1].usage.completion_tokens == 2


def test_completion_streams(caller: Caller) -> None:
    chunks = caller.chunks("stream_complete", "Once")
    assert [chunk.text for chunk in chunks] == list(WORDS)


def test_life_of_a_stored_composition(caller: Caller, kind: type[Blocking]) -> None:
    name = f"team/{kind.__name__} ü"  # must be quoted in the path
    put = caller.call("put_composition", name, {"recipe": "proxy_tuning", "expert": "chat"})
    assert put.plan == {"formula": "base + 0.8*polite"}
    assert caller.call("get_composition", name) == put
    assert (put.version, put.origin) == (3, {})
    assert name in [entry.name for entry in caller.call("list_compositions")]
    assert caller.call("put_composition", name, "base").composition == "base"
    new = caller.call("put_composition", name, "base", if_none_match=True)
    assert new.origin == {"if-none-match": "*"}
    assert caller.call("put_composition", name, "base", if_match=3).origin == {"if-match": '"3"'}
    with pytest.raises(ValueError, match="contradict"):
        caller.call("put_composition", name, "base", if_match=3, if_none_match=True)
    assert caller.call("rollback_composition", name).composition == "the one before"
    assert caller.call("rollback_composition", name, to=2, if_match=3).composition == {"to": 2}
    first, private, last = caller.call("composition_history", name)
    assert (first.composition, first.owner, first.private) == ("base", "me", False)
    assert (private.composition, private.private) == (None, True)
    assert (last.version, last.action) == (3, "delete")
    with pytest.raises(Conflict):
        caller.call("delete_composition", name, if_match=1)
    assert caller.call("delete_composition", name) is None
    with pytest.raises(NotFound):
        caller.call("get_composition", name)


def test_reading_ones_writes(url: str) -> None:
    with Client(url) as client:
        client.put_composition("written", "base")
        assert client.get_composition("written").origin == {}  # only where it is wanted
    asked = {"x-composer-store": ">=17"}
    with Client(url, reads_writes=True) as client:
        assert client.put_composition("written", "base").origin == {}
        assert client.get_composition("written").origin == asked

    async def run() -> dict[str, Any]:
        async with AsyncClient(url, reads_writes=True) as client:
            await client.put_composition("written", "base")
            return (await client.get_composition("written")).origin

    assert asyncio.run(run()) == asked


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, BadRequest),
        (401, Forbidden),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (413, BadRequest),
        (422, BadRequest),
        (429, RateLimited),
        (500, ServerError),
        (503, ServerError),
    ],
)
@pytest.mark.parametrize("method", ["chat", "stream_chat"])
def test_error_statuses(caller: Caller, status: int, expected: type[ApiError], method: str) -> None:
    run = caller.chunks if method.startswith("stream") else caller.call
    with pytest.raises(expected) as caught:
        run(method, "Hi", model=f"status-{status}")
    error = caught.value
    assert type(error) is expected
    assert (error.status, error.param, error.code) == (status, "model", f"code_{status}")
    assert "error" in error.message


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("stream-cut", "before the server sent"),
        ("stream-broken", "the connection broke in the stream"),
        ("stream-garbage", "is not a chunk"),
        ("stream-foreign", "as ChatChunk"),
        ("stream-error", "the engine died"),
    ],
)
def test_a_stream_that_fails_after_its_first_chunk(
    kind: type[Blocking], url: str, model: str, message: str
) -> None:
    seen: list[str] = []
    with pytest.raises(StreamError, match=message) as caught:
        asyncio.run(_collect(url, model, seen)) if kind is not Blocking else _read(url, model, seen)
    assert seen[0] == WORDS[0]  # what came before the failure was delivered
    assert caught.value.code == ("engine_fault" if model == "stream-error" else None)


def _read(url: str, model: str, seen: list[str]) -> None:
    with Client(url) as client:
        for chunk in client.stream_chat("Hi", model=model):
            seen.append(chunk.text)


async def _collect(url: str, model: str, seen: list[str]) -> None:
    async with AsyncClient(url) as client:
        async for chunk in client.stream_chat("Hi", model=model):
            seen.append(chunk.text)


def test_leaving_a_stream_aborts_the_request(url: str, app: FastAPI) -> None:
    app.state.disconnected.clear()
    with Client(url) as client:
        stream = client.stream_chat("Hi", model="endless")
        assert next(stream).text == WORDS[0]
        stream.close()
        assert app.state.disconnected.wait(timeout=10)


def test_leaving_an_async_stream_aborts_the_request(url: str, app: FastAPI) -> None:
    async def run() -> bool:
        async with AsyncClient(url) as client:
            async with aclosing(client.stream_chat("Hi", model="endless")) as stream:
                assert (await anext(stream)).text == WORDS[0]
            return await asyncio.to_thread(app.state.disconnected.wait, 10)

    app.state.disconnected.clear()
    assert asyncio.run(run())


def test_many_requests_at_once(url: str) -> None:
    async def run() -> list[str]:
        async with AsyncClient(url) as client:
            answers = await asyncio.gather(*(client.chat(f"Hi {i}") for i in range(20)))
        return [sent(answer)["messages"][0]["content"] for answer in answers]

    assert asyncio.run(run()) == [f"Hi {i}" for i in range(20)]


def test_nobody_listens(kind: type[Blocking]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    caller = kind(f"http://127.0.0.1:{port}/v1")
    with pytest.raises(ConnectionFailed, match="is the server running"):
        caller.call("models")
    with pytest.raises(ConnectionFailed, match=str(port)):
        caller.chunks("stream_chat", "Hi")


def test_the_server_is_silent_too_long(kind: type[Blocking], url: str) -> None:
    with pytest.raises(ConnectionFailed, match=r"in time .* 0\.1 s.*max_tokens"):
        kind(url, Timeouts(read_s=0.1)).call("chat", "Hi", model="silent")


def test_an_answer_of_another_service(caller: Caller) -> None:
    with pytest.raises(InvalidResponse, match="/v1"):
        caller.call("chat", "Hi", model="no-json")
    with pytest.raises(InvalidResponse, match="redirection"):
        caller.call("send", Call("GET", "/moved", None, bytes))


def test_the_key_is_sent_as_a_bearer_token(url: str) -> None:
    with Client(url, api_key="secret") as client:
        assert json.loads(client.chat("Hi").text)["key"] == "Bearer secret"
        assert "secret" not in repr(client.settings)
