"""Stored compositions and the list of models, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.live import LiveServer

pytestmark = pytest.mark.engine


@pytest.fixture
def clean(server: LiveServer) -> Iterator[LiveServer]:
    """The server, without stored compositions before and after."""
    yield server
    for entry in server.http.get("/v1/compositions").json()["data"]:
        server.http.delete(f"/v1/compositions/{entry['name']}")


def code_of(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_store_use_replace_forget(clean: LiveServer) -> None:
    http = clean.http
    created = http.put("/v1/compositions/kind", json="base + 0.5*polite")
    assert created.status_code == 201
    assert created.json()["plan"]["formula"] == "base + 0.5*polite"
    answer = clean.chat("kind").json()
    assert answer["model"] == "kind"
    assert answer["composition"]["plan"] == created.json()["plan"]
    spelled = clean.chat("base + 0.5*polite").json()
    assert answer["choices"] == spelled["choices"]

    recipe = {"recipe": "proxy_tuning", "expert": "polite", "alpha": 2.0}
    assert http.put("/v1/compositions/kind", json=recipe).status_code == 200
    assert http.get("/v1/compositions/kind").json()["composition"] == recipe
    assert clean.complete("kind").json()["composition"]["plan"]["formula"] == "-base + 2*polite"

    assert http.delete("/v1/compositions/kind").json()["deleted"] is True
    assert code_of(http.get("/v1/compositions/kind")) == (404, "composition_not_found")
    assert code_of(http.delete("/v1/compositions/kind")) == (404, "composition_not_found")
    assert code_of(clean.chat("kind")) == (404, "model_not_found")


def test_it_is_on_disk_when_it_is_answered(clean: LiveServer) -> None:
    clean.http.put("/v1/compositions/kind", json="base + polite")
    file = Path(clean.log).parent / "compositions.json"
    assert json.loads(file.read_text())["compositions"] == {"kind": "base + polite"}


@pytest.mark.parametrize("name", ["base", "zoo", "polite", "auto"])
def test_names_in_use(clean: LiveServer, name: str) -> None:
    response = clean.http.put(f"/v1/compositions/{name}", json="base + rude")
    assert code_of(response) == (409, "name_taken")


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("1st", b'"base + rude"', (400, "composition_schema")),
        ("kind", b'"base + nobody"', (404, "model_not_found")),
        ("kind", b'"base + "', (400, "formula_syntax")),
        ("kind", b'{"formula": 3}', (400, "composition_schema")),
        ("kind", b"null", (400, "composition_schema")),
        ("kind", b"base + rude", (400, "invalid_json")),
        ("kind", b"", (400, "invalid_json")),
        ("kind", b"\xff", (400, "invalid_json")),
    ],
)
def test_what_cannot_be_stored(
    clean: LiveServer, name: str, body: bytes, expected: tuple[int, str]
) -> None:
    response = clean.http.put(f"/v1/compositions/{name}", content=body)
    assert code_of(response) == expected
    assert clean.http.get("/v1/compositions").json()["data"] == []


def test_a_composition_does_not_refer_to_another(clean: LiveServer) -> None:
    clean.http.put("/v1/compositions/kind", json="base + polite")
    response = clean.http.put("/v1/compositions/kinder", json="2*kind")
    assert code_of(response) == (404, "model_not_found")
    assert code_of(clean.chat("base", composition="base + kind")) == (404, "model_not_found")


def test_models(clean: LiveServer) -> None:
    clean.http.put("/v1/compositions/kind", json="base + polite")
    models = clean.http.get("/v1/models").json()["data"]
    by_id = {model["id"]: model for model in models}
    adapters = {"polite", "rude", "chat", "arithmetic"}
    assert set(by_id) == {"zoo", "base", "kind", "auto", *adapters}
    assert by_id["auto"]["router"] == {"kind": "prompt", "top_k": 1}
    assert "@" not in json.dumps(models)
    assert by_id["polite"]["parent"] == "base"
    assert len(by_id["polite"]["digest"]) == 64
    assert by_id["base"]["parent"] is None
    assert by_id["kind"]["composition"] == "base + polite"
    assert all(model["object"] == "model" for model in models)
