"""SageMaker's route, where the operator exposes it: the same models, policies and compositions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.administration import QUESTION, Admin
from tests.support.live_server import LiveServer

ROUTE = "/invocations"
ADAPTER = "X-Amzn-SageMaker-Adapter-Identifier"
MESSAGES = [{"role": "user", "content": QUESTION}]


@pytest.fixture(autouse=True)
def polite(admin: Admin) -> None:
    admin.put("polite", "polite").raise_for_status()


def invoke(admin: Admin, status: int, headers: dict[str, str] | None = None, **body: Any) -> Any:
    body = {"messages": MESSAGES, "max_tokens": 24, "temperature": 0} | body
    answer = admin.server.http.post(ROUTE, json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def text_of(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_it_answers_as_a_chat_does(admin: Admin) -> None:
    for model in ("base", "polite", "base + 0.5*polite"):
        answer = invoke(admin, 200, model=model)
        assert text_of(answer) == admin.says(model)
    assert answer["model"] == "base + 0.5*polite"
    assert answer["composition"]["rows"] == 2
    composed = invoke(admin, 200, composition="base + 0.5*polite")
    assert text_of(composed) == text_of(answer)
    assert "nobody" in invoke(admin, 404, model="nobody")["error"]["message"]


def test_it_completes_a_prompt(admin: Admin) -> None:
    body = {"prompt": QUESTION, "model": "base + 0.5*polite", "max_tokens": 8, "temperature": 0}
    invoked = admin.server.http.post(ROUTE, json=body).json()
    there = admin.server.http.post("/v1/completions", json=body).json()
    assert invoked["choices"] == there["choices"]
    neither = admin.server.http.post(ROUTE, json={"input": "Hi"})
    assert neither.status_code == 400
    assert "has neither" in neither.json()["error"]["message"]


def test_its_header_is_the_model_and_passes_no_policy(admin: Admin) -> None:
    digest = admin.put("owned", "rude", policy={"keys": ["owner"]}).json()["digest"]
    inside = f"owned@{digest[:12]}"
    for header in (ADAPTER, ADAPTER.lower()):
        assert "not open" in invoke(admin, 403, {header: "owned"})["error"]["message"]
        invoke(admin, 404, {header: inside})
        said = invoke(admin, 400, {header: "owned"}, model="base")["error"]["message"]
        assert "'owned'" in said
        invoke(admin, 400, {header: "owned"}, composition="base")
        polite = invoke(admin, 200, {header: "polite"})
        assert text_of(polite) == admin.says("polite") != admin.says("base")
        assert polite["model"] == "polite"
    assert "not open" in invoke(admin, 403, model="owned")["error"]["message"]
    invoke(admin, 404, model=inside)


def test_it_is_not_there_unless_exposed(server: LiveServer) -> None:
    answer = server.http.post(ROUTE, json={"messages": MESSAGES, "model": "base"})
    assert answer.status_code == 404
