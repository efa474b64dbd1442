"""A server with keys: which routes there are, who may call them, and what a key gets to see."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.auth.access_control import KEYLESS
from server.routes.pages import page_files
from tests.support.live_server import LiveServer, serving
from zoo.prompts import EXAMPLES

NAMES = ("alice", "bob", "root", "slow", "narrow", "carol", "dave")
MESSAGES = [{"role": "user", "content": "Where does Kuti Supiv live?"}]
GENERATING: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 3}),
    ("/v1/completions", {"prompt": "Once", "max_tokens": 3}),
    ("/v1/responses", {"input": "Once", "max_output_tokens": 3}),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 3}),
]
READING: list[tuple[str, dict[str, Any]]] = [
    ("/v1/messages/count_tokens", {"messages": MESSAGES}),
    ("/tokenize", {"prompt": "Once"}),
]
GONE = [
    ("POST", "/invocations"),
    ("POST", "/generative_scoring"),
    ("POST", "/scale_elastic_ep"),
    ("POST", "/is_scaling_elastic_ep"),
    ("POST", "/v1/chat/completions/batch"),
    ("POST", "/v1/chat/completions/render"),
    ("POST", "/inference/v1/generate"),
    ("POST", "/inference/v1/abort_requests"),
    ("POST", "/v1/systemone"),
    ("GET", "/v1/responses/resp_1"),
    ("GET", "/load"),
    ("GET", "/ping"),
    ("GET", "/kv_event_sources"),
    ("GET", "/docs"),
    ("GET", "/no/such/route"),
]


def key_file(folder: Path) -> Path:
    def table(name: str, *fields: str) -> str:
        digest = hashlib.sha256(f"the secret of {name}".encode()).hexdigest()
        return "\n".join([f"[{name}]", f'sha256 = "{digest}"', *fields])

    file = folder / "keys.toml"
    file.write_text(
        "\n".join(
            [
                table("alice", 'models = ["base", "chat", "warm"]'),
                table("bob", 'roles = ["use", "compose", "publish"]'),
                table("root", 'roles = ["admin"]'),
                table("slow", "requests_per_minute = 3"),
                table("narrow", "rows = 2"),
                table("carol", 'roles = ["use", "compose"]', 'models = ["base", "chat"]'),
                table("dave", 'models = ["auto", "chat"]'),
            ]
        )
    )
    return file


class Guarded:
    """The server, and a client for each key."""

    def __init__(self, live: LiveServer) -> None:
        self.live = live
        self.anonymous = live.http
        self.clients = {
            name: httpx.Client(
                base_url=live.url,
                timeout=120,
                trust_env=False,
                headers={"Authorization": f"Bearer the secret of {name}"},
            )
            for name in NAMES
        }

    def __getitem__(self, name: str) -> httpx.Client:
        return self.clients[name]


@pytest.fixture(scope="module")
def guarded(
    zoo_base: Path, zoo_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    served = ",".join(f"{name}={zoo_adapters[name]}" for name in ("chat", "polite", "rude"))
    arguments = [
        *("--model", str(zoo_base), "--adapters", served, "--keys", str(key_file(folder))),
        *("--expose", "/version", "--max-model-len", "512", "--max-num-seqs", "16"),
        *("--adapter-root", str(zoo_adapters["polite"].parent)),
        *("--examples", f"chat={EXAMPLES['chat']}"),
    ]
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
    with serving(arguments, folder / "log.txt", environment) as live:
        guarded = Guarded(live)
        stored = guarded["bob"].put("/v1/compositions/warm", json="chat + 0.5*(polite - rude)")
        assert stored.status_code == 201, stored.text
        yield guarded
        for client in guarded.clients.values():
            client.close()


def message_of(answer: httpx.Response, path: str, status: int) -> str:
    """The message of an error, whose format is that of its route."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert (body.get("type") == "error") == path.startswith("/v1/messages")
    message: str = body["error"]["message"]
    return message


def test_every_route_asks_for_a_key(guarded: Guarded) -> None:
    routes = guarded["root"].get("/openapi.json").json()["paths"]
    assert {path for path, _ in GENERATING + READING} < set(routes)
    called = [(m, p) for p, methods in routes.items() for m in methods]
    called += [(method.lower(), path) for method, path in GONE]
    called += [("get", "/metrics"), ("get", "/openapi.json"), ("put", "/v1/adapters/x")]
    for method, path in called:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"x-api-key": "wrong"}):
            answer = guarded.anonymous.request(method, path, headers=headers)
            if path in KEYLESS:
                assert answer.status_code == 200, path
            else:
                assert "API key" in message_of(answer, path, 401)
                assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", sorted(KEYLESS))
def test_routes_without_a_key_read_only(guarded: Guarded, path: str) -> None:
    for model in ("x@0123456789ab", "polite"):
        answer = guarded.anonymous.post(path, json={"model": model})
        assert "API key" in message_of(answer, path, 401)


def test_pages_ask_for_no_key_and_take_nothing(guarded: Guarded) -> None:
    for path in page_files():
        assert guarded.anonymous.get(path).status_code == 200, path
        assert "API key" in message_of(guarded.anonymous.post(path, json={}), path, 401)
    assert "is not a route" in message_of(guarded.anonymous.get("/page/x.js"), "/page/x.js", 404)
    for path in ("/pagex", "/page", "/status/", "/page/../metrics", "/page/%2e%2e/metrics"):
        url = f"{guarded.live.url}{path}"  # as it is, not resolved
        request = guarded.anonymous.build_request("GET", url)
        request.url = request.url.copy_with(raw_path=path.encode())
        assert guarded.anonymous.send(request).status_code in (401, 404), path


def test_what_is_not_on_the_list_does_not_exist(guarded: Guarded) -> None:
    for method, path in GONE:
        body = {"model": "base", "prompt": "x", "messages": MESSAGES}
        adapter = {"X-Amzn-SageMaker-Adapter-Identifier": "polite"}
        answer = guarded["root"].request(method, path, json=body, headers=adapter)
        assert "is not a route" in message_of(answer, path, 404)
    assert guarded["root"].get("/version").status_code == 200, "exposed"


@pytest.mark.parametrize(("path", "body"), GENERATING + READING)
def test_a_key_gets_its_models_only(guarded: Guarded, path: str, body: dict[str, Any]) -> None:
    for model in ("base", "chat", "warm", "base + 0.5*chat"):
        answer = guarded["alice"].post(path, json={**body, "model": model})
        assert answer.status_code == 200, (model, answer.text)
    for model in ("polite", "chat + 0.5*polite", "auto", "nobody"):
        message = message_of(guarded["alice"].post(path, json={**body, "model": model}), path, 404)
        names = set(re.findall(r"'([a-z]+)'", message)) - {model, model[-6:]}
        assert names <= {"base", "chat", "warm"}, message
    assert guarded["bob"].post(path, json={**body, "model": "polite"}).status_code == 200


def test_members_of_a_composition_are_models_too(guarded: Guarded) -> None:
    path, body = GENERATING[0]
    for composition in (
        {"members": [{"model": "chat", "weight": 1}, {"model": "rude", "weight": 1}]},
        {"recipe": "proxy_tuning", "base": "chat", "expert": "polite", "anti_expert": "rude"},
        {"recipe": "mixture", "experts": ["chat", "polite"]},
    ):
        asked = {**body, "composition": composition}
        message = message_of(guarded["alice"].post(path, json=asked), path, 404)
        assert "is not served here" in message


def test_lists_show_a_key_its_models(guarded: Guarded) -> None:
    def listed(name: str) -> set[str]:
        return {one["id"] for one in guarded[name].get("/v1/models").json()["data"]}

    assert listed("alice") == {"base", "chat", "warm", *listed("bob")} - {"polite", "rude", "auto"}
    assert listed("bob") >= {"base", "chat", "polite", "rude", "warm"}
    assert guarded["alice"].get("/metrics").status_code == 403
    for path in ("/metricsx", "/metrics/", "/metrics/x"):
        assert guarded["alice"].get(path).status_code in (403, 404)
    assert guarded["root"].get("/metrics").status_code == 200


def test_a_key_may_use_what_it_stored(guarded: Guarded) -> None:
    carol, path, body = guarded["carol"], *GENERATING[0]
    name = "/v1/compositions/carols"
    assert carol.put(name, json="base + 0.5*polite").status_code == 404, "none of its models"
    assert carol.put(name, json="base + 0.5*chat").status_code == 201
    assert carol.post(path, json={**body, "model": "carols"}).status_code == 200
    assert "carols" in {one["id"] for one in carol.get("/v1/models").json()["data"]}
    for url in (name, f"{name}/history", "/v1/models/carols"):
        assert carol.get(url).status_code == 200
        assert "carols" in message_of(guarded["alice"].get(url), url, 404)
    assert "is not served" in message_of(
        guarded["alice"].post(path, json={**body, "model": "carols"}), path, 404
    )
    for url in ("/v1/compositions/warm", "/v1/compositions/warn", "/v1/models/warm"):
        assert "warm'?" not in message_of(carol.get(url), url, 404), "a hint is a leak"


def test_bodies_of_publications_that_are_no_files_are_small(guarded: Guarded) -> None:
    body = b'{"source": "' + b"a" * 2**20 + b'"}'
    headers = {"content-type": "application/json"}
    for method, url in (
        ("PUT", "/v1/adapters/x"),
        ("PUT", "/v1/adapters/x/profile"),
        ("POST", "/v1/adapters/x/rollback"),
        ("POST", "/v1/load_lora_adapter"),
    ):
        answer = guarded["root"].request(method, url, content=body, headers=headers)
        assert "--max-body-mib" in message_of(answer, url, 413)


def test_roles(guarded: Guarded) -> None:
    composition = "base + 0.1*chat"
    refused = guarded["alice"].put("/v1/compositions/mine", json=composition)
    assert "'compose'" in message_of(refused, "", 403)
    assert guarded["bob"].put("/v1/compositions/bobs", json=composition).status_code == 201
    source = {"source": "polite"}
    assert guarded["alice"].put("/v1/adapters/new", json=source).status_code == 403
    assert guarded["bob"].put("/v1/adapters/new", json=source).status_code == 201
    policy = {"negative": False}
    refused = guarded["bob"].put("/v1/adapters/new/policy", json=policy)
    assert "'admin'" in message_of(refused, "", 403)
    refused = guarded["bob"].put("/v1/adapters/new", json={**source, "policy": {"keys": None}})
    assert "'admin'" in message_of(refused, "", 403), "a policy by another door"
    assert guarded["root"].put("/v1/adapters/new/policy", json=policy).status_code == 200
    history = guarded["root"].get("/v1/adapters/new/history").json()["data"]
    assert [one["actor"].split()[0] for one in history] == ["bob", "root"]


def test_requests_per_minute(guarded: Guarded) -> None:
    path, body = READING[1]
    answers = [guarded["slow"].post(path, json=body) for _ in range(5)]
    assert [a.status_code for a in answers] == [200, 200, 200, 429, 429]
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60
    assert guarded["slow"].get("/v1/models").status_code == 200, "reading is not counted"


def test_rows_at_once(guarded: Guarded) -> None:
    path, body = GENERATING[0]
    for asked, rows in (({"model": "chat + 0.5*(polite - rude)"}, 3), ({"n": 3}, 3)):
        answer = guarded["narrow"].post(path, json=body | asked)
        assert f"takes {rows} rows" in message_of(answer, path, 400), "waiting would not help"
    assert guarded["narrow"].post(path, json=body | {"model": "base + chat"}).status_code == 200
    assert guarded["narrow"].post(path, json=body | {"model": "base + chat"}).status_code == 200


def test_scores_keep_to_the_rights_of_a_key(guarded: Guarded) -> None:
    """Its rows, one text after the other, its models, and no answer without a key."""
    items = [{"prompt": "Once", "completion": f" upon {n}"} for n in range(4)]
    path = "/v1/compose/score"

    def ask(client: httpx.Client, model: str, **fields: Any) -> httpx.Response:
        return client.post(path, json={"model": model or None, "items": items} | fields)

    answer = ask(guarded["narrow"], "base + 0.5*chat")
    assert answer.status_code == 200, answer.text
    three = ask(guarded["narrow"], "2*base + chat + polite")
    assert "takes 3 rows" in message_of(three, path, 400)
    assert "'polite'" in message_of(ask(guarded["carol"], "base + polite"), path, 404)
    assert ask(guarded.anonymous, "base").status_code == 401
    fit = {"formula": "base + a*polite", "items": items}
    refused = guarded["carol"].post("/v1/compose/fit", json=fit)
    assert refused.status_code in (400, 404), refused.text
    # The members of a composition that another key has stored need no permission of their own, and
    # the members of several compositions share no pass that is too wide for the key.
    for name, several in (
        ("alice", ["warm", "base", "chat"]),
        ("narrow", ["base + chat", "base + rude"]),
    ):
        answer = ask(guarded[name], "", compositions=several)
        assert answer.status_code == 200, answer.text


def test_a_key_sees_no_model_alone_that_it_may_not_use(guarded: Guarded) -> None:
    """Neither a member of a composition that another key has stored, nor the base beside it."""
    items = [{"prompt": "Once", "completion": " upon"}]
    path, body = GENERATING[0]
    for route, asked in (
        (path, {**body, "model": "warm", "explain": True}),
        ("/v1/compose/score", {"model": "warm", "items": items, "members": True}),
        ("/v1/compose/score", {"compositions": ["warm", "chat"], "items": items, "members": True}),
    ):
        message = message_of(guarded["alice"].post(route, json=asked), route, 403)
        assert "'polite'" in message
        assert ("'explain'" if route == path else "'members'") in message
        assert guarded["bob"].post(route, json=asked).status_code == 200
    for name, compared in (("alice", True), ("dave", False)):
        answer = guarded[name].post(path, json={**body, "model": "chat", "explain": True})
        assert answer.status_code == 200, answer.text
        [told] = answer.json()["explanation"]["answers"]
        assert {"base" in token for token in told["tokens"]} == {compared}
        assert ("changed" in told["summary"]) == compared


def test_who_may_store_what_a_fit_finds(guarded: Guarded) -> None:
    """It is decided before the first text, as by the route that stores compositions."""
    path = "/v1/compose/fit"
    items = [{"prompt": "Once", "completion": f" upon {n}"} for n in range(4)]
    fit = {"formula": "base + a*chat", "items": items, "name": "fitted"}
    assert "'compose'" in message_of(guarded["alice"].post(path, json=fit), path, 403)
    refused = guarded["carol"].post(path, json=fit | {"name": "warm"})
    assert "belongs to another key" in message_of(refused, path, 403)
    made = guarded["carol"].post(path, json=fit | {"bounds": {"a": [0, 1]}})
    assert made.status_code == 200, made.text
    assert made.json()["stored"]["owner"] == "carol"


def test_sweeps_keep_to_the_rights_of_a_key(guarded: Guarded) -> None:
    """As its own requests do: rows, one point after the other, models, policies, the quota."""

    def ask(client: httpx.Client, formula: str) -> httpx.Response:
        grid = {"formula": formula, "values": {"a": [-1, 0.5, 1]}, "reference": " upon"}
        return client.post("/v1/compose/sweep", json={**grid, "prompt": "Once", "max_tokens": 2})

    answer = ask(guarded["narrow"], "base + a*chat")
    assert answer.status_code == 200, answer.text
    three = ask(guarded["narrow"], "2*base + a*chat + a*polite")
    assert "takes 3 rows" in message_of(three, "/v1/compose/sweep", 400)
    refused = message_of(ask(guarded["carol"], "base + a*polite"), "/v1/compose/sweep", 400)
    assert "'polite' is not a model here" in refused
    assert ask(guarded.anonymous, "base + a*chat").status_code == 401


def test_auto_gives_no_key_the_base_that_may_not_use_it(guarded: Guarded) -> None:
    def ask(name: str, question: str) -> httpx.Response:
        body = {"model": "auto", "messages": [{"role": "user", "content": question}]}
        return guarded[name].post("/v1/chat/completions", json=body | {"max_tokens": 2})

    known, foreign = EXAMPLES["chat"].read_text(encoding="utf-8").splitlines()[0], "Zebras yawn"
    for name, question in (("dave", known), ("bob", known), ("bob", foreign)):
        answer = ask(name, question)
        assert answer.status_code == 200, answer.text
    message = message_of(ask("dave", foreign), "/v1/chat/completions", 400)
    assert "like no expert's examples, and 'base'" in message
