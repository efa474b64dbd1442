"""Stored compositions and the list of models, over HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from adapters import Store
from tests.server.administration import POLITE, QUESTION, Admin
from tests.support.live_server import LiveServer


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
    assert by_id["auto"]["router"] == {"kind": "prompt", "top_k": 1, "none": True}
    assert "@" not in json.dumps(models)
    assert by_id["polite"]["parent"] == "base"
    assert len(by_id["polite"]["digest"]) == 64
    assert by_id["base"]["parent"] is None
    assert by_id["kind"]["composition"] == "base + polite"
    assert all(model["object"] == "model" for model in models)


# ---- versions and owners


def test_versions_history_and_rollback(clean: LiveServer) -> None:
    http, url = clean.http, "/v1/compositions/versioned"
    new = {"If-None-Match": "*"}
    first = http.put(url, json="base + polite", headers=new)
    assert (first.status_code, first.headers["etag"]) == (201, '"1"')
    number = first.json()["version"]
    assert code_of(http.put(url, json="rude", headers=new)) == (409, "version_conflict")
    assert code_of(http.put(url, json="rude", headers={"If-Match": "x"}))[0] == 400
    second = http.put(url, json="base + rude", headers={"If-Match": f'"{number}"'})
    assert (second.status_code, second.headers["etag"]) == (200, f'"{number + 1}"')
    assert int(second.headers["x-composer-store"]) == second.json()["sequence"]
    assert http.get(url).headers["etag"] == second.headers["etag"]
    stale = {"If-Match": f'"{number}"'}
    assert code_of(http.delete(url, headers=stale)) == (409, "version_conflict")
    assert code_of(http.post(f"{url}/rollback", headers=stale)) == (409, "version_conflict")
    back = http.post(f"{url}/rollback")
    assert back.json()["composition"] == "base + polite"
    assert http.post(f"{url}/rollback", json={"to": number + 1}).json()["plan"]["formula"] == (
        "base + rude"
    )
    assert code_of(http.post(f"{url}/rollback", json={"from": 1})) == (400, "invalid_json")
    assert http.delete(url).status_code == 200
    history = http.get(f"{url}/history").json()["data"]
    actions = [version["action"] for version in history]
    assert actions[-5:] == ["publish", "publish", "rollback", "rollback", "delete"]
    assert all("127.0.0.1" in version["actor"] for version in history)
    assert http.post(f"{url}/rollback").status_code == 200
    assert clean.chat("versioned").status_code == 200


@pytest.fixture
def owned(admin: Admin) -> Iterator[Admin]:
    """The administrator's server, without stored compositions before and after."""
    _forget_all(admin)
    yield admin
    _forget_all(admin)


def _forget_all(admin: Admin) -> None:
    for entry in admin.http.get("/v1/compositions").json()["data"]:
        admin.http.delete(f"/v1/compositions/{entry['name']}")


SECRET = "the secret instructions"
WITH_PROMPTS: list[Any] = [
    {
        "members": [
            {"model": "base", "weight": 1.0},
            {"model": "chat", "weight": 0.5, "prompt": SECRET},
            {"model": "chat", "weight": 0.25, "messages": [{"role": "user", "content": SECRET}]},
        ]
    },
    {"recipe": "classifier_free_guidance", "negative_prompt": SECRET},
    {"recipe": "context_aware", "context": SECRET},
]


@pytest.mark.parametrize("composition", WITH_PROMPTS)
def test_the_prompts_are_the_owners(owned: Admin, composition: Any) -> None:
    url, other = "/v1/compositions/kind", owned.server.http
    made = owned.http.put(url, json=composition)
    assert made.status_code == 201
    assert SECRET in made.text
    assert (made.json()["owner"], made.json()["private"]) == ("admin", False)
    asked = {"messages": [{"role": "user", "content": f"{SECRET} {QUESTION}"}], "max_tokens": 2}
    if composition.get("recipe") == "context_aware":
        other_answers = [other.post("/v1/chat/completions", json={"model": "kind", **asked})]
        failed = other.post(
            "/v1/chat/completions",
            json={"model": "kind", "messages": [{"role": "user", "content": QUESTION}]},
        )
        assert failed.status_code == 400
        assert "does not occur" in failed.text
        assert SECRET not in failed.text
    else:
        other_answers = [
            other.post("/v1/chat/completions", json={"model": "kind", **asked}),
            other.post("/v1/completions", json={"model": "kind", "prompt": QUESTION}),
        ]
        long = "x " * 600
        failed = owned.http.put(url, json=_with_text(composition, long))
        assert failed.status_code == 200
        refused = other.post("/v1/chat/completions", json={"model": "kind", **asked})
        assert refused.status_code == 400
        assert "x x" not in refused.text
        owned.http.put(url, json=composition)
    for answer in other_answers:
        assert answer.status_code == 200, answer.text
        told = answer.json()["composition"]
        assert SECRET not in json.dumps(told)
        assert told["plan"]["private"] is True
        assert "private" in [member["prompt"] for member in told["plan"]["members"]]
    for path in (url, "/v1/compositions", f"{url}/history", "/v1/models", "/v1/models/kind"):
        shown = other.get(path)
        assert shown.status_code == 200
        assert SECRET not in shown.text, path
        assert "127.0.0.1" not in shown.text, path
        assert '"private":true' in shown.text, path
    assert SECRET in owned.http.get(f"{url}/history").text


def _with_text(composition: Any, text: str) -> Any:
    return json.loads(json.dumps(composition).replace(SECRET, text))


def test_only_the_owner_and_administrators_change_it(owned: Admin) -> None:
    url, other = "/v1/compositions/kind", owned.server.http
    owned.http.put(url, json="base + chat")
    for refused in (
        other.put(url, json="base"),
        other.delete(url),
        other.post(f"{url}/rollback"),
    ):
        assert code_of(refused) == (403, "composition_not_yours")
    assert other.get(url).json()["composition"] == "base + chat"
    assert "owner" not in other.get(url).json()
    other.put("/v1/compositions/theirs", json="base")
    replaced = owned.http.put("/v1/compositions/theirs", json="chat")
    assert (replaced.status_code, replaced.json()["owner"]) == (200, "anonymous")


def test_the_limit_of_a_key(owned: Admin) -> None:
    for n in range(100):
        made = owned.server.http.put(f"/v1/compositions/c{n}", json="base")
        assert made.status_code == 201, made.text
    refused = owned.server.http.put("/v1/compositions/one_more", json="base")
    assert code_of(refused) == (409, "composition_limit")
    assert "--max-compositions-per-key" in refused.json()["error"]["message"]
    assert owned.http.put("/v1/compositions/one_more", json="base").status_code == 201


def test_names_of_adapters_of_other_servers(owned: Admin, store: Store) -> None:
    """Another server publishes under the name before this one has followed the store."""
    digest = owned.put("polite1", "polite").json()["digest"]
    store.publish("elsewhere", digest, actor="another", origin={})
    refused = owned.http.put("/v1/compositions/elsewhere", json="base")
    assert code_of(refused) == (409, "name_taken")
    store.delete("elsewhere", actor="another")
    store.compositions.put("both", "base", key=None, owner="another", actor="another")
    assert code_of(owned.put("both", "polite")) == (409, "name_taken")
    store.compositions.delete("both", key=None, actor="another")


# ---- reading one's writes


@pytest.fixture
def store(owned: Admin) -> Store:
    """Another process's view of the store."""
    root = owned.server.log.parent / "store"
    return Store(root)


def test_a_request_waits_for_what_it_asks_for(owned: Admin, store: Store) -> None:
    number = int(owned.put("seen", "polite").headers["x-composer-store"])
    assert owned.says("seen") == POLITE
    for n in range(5):
        version = store.compositions.put(
            "fresh", f"base + {n + 1}*chat", key=None, owner="another", actor="another"
        )
        number = version.sequence
        answer = owned.server.http.get(
            "/v1/compositions/fresh", headers={"X-Composer-Store": f">={number}"}
        )
        assert answer.json()["composition"] == f"base + {n + 1}*chat"
    late = threading.Timer(
        0.3, lambda: store.compositions.delete("fresh", key=None, actor="another")
    )
    late.start()
    began = time.monotonic()
    gone = owned.server.http.get(
        "/v1/compositions/fresh", headers={"X-Composer-Store": f">={number + 1}"}
    )
    assert gone.status_code == 404
    assert time.monotonic() - began >= 0.25
    late.join()


def test_a_position_that_never_comes(owned: Admin) -> None:
    body = {"model": "chat", "prompt": "Hello", "max_tokens": 2}
    url = "/v1/completions"
    never = owned.server.http.post(url, json=body, headers={"X-Composer-Store": ">=99999999"})
    assert code_of(never) == (503, "unavailable")
    assert int(never.headers["retry-after"]) >= 1
    wrong = owned.server.http.post(url, json=body, headers={"X-Composer-Store": "7"})
    assert code_of(wrong)[0] == 400
    there = owned.server.http.post(url, json=body, headers={"X-Composer-Store": ">= 1"})
    assert there.status_code == 200
