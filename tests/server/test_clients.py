"""The client and the command line against the real server."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from clients import AsyncClient, BadRequest, Client, Conflict, NotFound
from clients.cli.main import main
from tests.support.live_server import LiveServer
from tests.support.served_app import served

FORMULA = "base + 0.5*polite - 0.5*rude"


def base_url(server: LiveServer) -> str:
    return f"{server.url}/v1"


def test_a_stream_adds_up_to_the_answer(server: LiveServer) -> None:
    with Client(base_url(server)) as client:
        whole = client.chat("Who are you?", composition=FORMULA, temperature=0.0, max_tokens=8)
        chunks = list(
            client.stream_chat("Who are you?", composition=FORMULA, temperature=0.0, max_tokens=8)
        )
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert whole.composition is not None
    assert whole.composition.rows == 3
    assert whole.composition.plan["formula"] == FORMULA
    assert chunks[0].composition == chunks[-1].composition == whole.composition
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_logprobs_of_a_composed_completion(server: LiveServer) -> None:
    with Client(base_url(server)) as client:
        answer = client.complete("Once upon a", composition=FORMULA, max_tokens=4, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == 4
    assert all(value is not None and value <= 0 for value in logprobs.token_logprobs)


def test_plain_and_composed_requests_at_once(server: LiveServer) -> None:
    models = ("base", "polite", FORMULA, "0.5*base + 0.5*base") * 2

    async def run() -> list[str]:
        async with AsyncClient(base_url(server)) as client:
            calls = [
                client.chat("Who are you?", model=model, temperature=0.0, max_tokens=8)
                for model in models
            ]
            return [answer.text for answer in await asyncio.gather(*calls)]

    texts = asyncio.run(run())
    assert texts[:4] == texts[4:]
    assert texts[0] == texts[3]  # the two halves are the base model


def test_stored_compositions(server: LiveServer) -> None:
    with Client(base_url(server)) as client:
        put = client.put_composition("of_the_client", {"recipe": "proxy_tuning", "expert": "chat"})
        assert put == client.get_composition("of_the_client")
        assert put.plan is not None
        assert put in client.list_compositions()
        assert "of_the_client" in {model.id for model in client.models()}
        assert client.chat("Hi", model="of_the_client", max_tokens=1).model == "of_the_client"
        client.delete_composition("of_the_client")
        with pytest.raises(NotFound) as caught:
            client.get_composition("of_the_client")
        assert caught.value.code == "composition_not_found"


def test_errors_arrive_as_their_class(server: LiveServer) -> None:
    with Client(base_url(server)) as client:
        with pytest.raises(NotFound, match="nobody"):
            client.chat("Hi", composition="base + nobody")
        with pytest.raises(BadRequest, match="100"):
            client.chat("Hi", composition="base + 1e9*polite")
        with pytest.raises(NotFound, match="nobody"):
            list(client.stream_chat("Hi", composition="base + nobody"))
        with pytest.raises(Conflict, match="polite"):
            client.put_composition("polite", "base")


def test_a_gateway_that_drops_the_composition(
    server: LiveServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """As vllm-router before 0.1.15 did: the body arrives without the field, the header with it."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def forward(request: Request) -> Response:
        body = await request.json()
        assert body.pop("composition") == FORMULA
        headers = {"x-composer-expect": request.headers["x-composer-expect"]}
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            answer = await http.post("/v1/chat/completions", json=body, headers=headers)
        return Response(answer.content, answer.status_code, media_type="application/json")

    with served(app) as url:
        with Client(url) as client:
            for ask in (client.chat, lambda *a, **k: list(client.stream_chat(*a, **k))):
                with pytest.raises(BadRequest, match="dropped the field") as caught:
                    ask("Hi", composition=FORMULA)
                assert caught.value.code == "composition_lost"
        assert main(["--base-url", url, "chat", "Hi", "--formula", FORMULA]) == 1
    assert "dropped the field" in capsys.readouterr().err


def test_the_command_line(server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--base-url", base_url(server), "chat", "Who are you?", "--formula", FORMULA]
    options = ["--max-tokens", "8", "--temperature", "0"]
    assert main([*words, *options, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["composition"]["rows"] == 3
    assert main([*words, *options, "--stream"]) == 0
    assert capsys.readouterr().out == answer["choices"][0]["message"]["content"] + "\n"


def test_the_life_of_a_stored_composition(server: LiveServer) -> None:
    with Client(base_url(server), reads_writes=True) as client:
        first = client.put_composition("written", FORMULA, if_none_match=True)
        second = client.put_composition("written", "base + polite", if_match=first.version)
        with pytest.raises(Conflict):
            client.put_composition("written", "base", if_match=first.version)
        assert client.chat("Who are you?", model="written", max_tokens=2).composition is not None
        back = client.rollback_composition("written", if_match=second.version)
        assert back.composition == FORMULA
        client.delete_composition("written", if_match=back.version)
        with pytest.raises(NotFound):
            client.get_composition("written")
        actions = [version.action for version in client.composition_history("written")]
        assert actions == ["publish", "publish", "rollback", "delete"]
