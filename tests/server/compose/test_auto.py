"""What `auto` chooses from: adapters with examples or a description, as policies allow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.administration import PLAIN, POLITE, QUESTION, RUDE, Admin

WHERE = ["Where does Sano Pubek live?", "What is the home of Vafu Dezir?"]
COUNT = ["Count on from 387", "Count on from 12"]
SEQUENCE = {
    "recipe": "mixture",
    "experts": ["chat", "where"],
    "router": {"kind": "sequence", "at": 1},
}


@pytest.fixture
def clean(admin: Admin) -> Iterator[Admin]:
    """Without adapters that could be routed to, before and after."""
    forget(admin)
    yield admin
    forget(admin)


def forget(admin: Admin) -> None:
    for alias in ("where", "count", "chat"):
        admin.http.put(f"/v1/adapters/{alias}/profile", json={})


def told(admin: Admin, question: str = QUESTION, **fields: Any) -> Any:
    """What `auto` says about its choice."""
    answer = admin.server.chat("auto", question, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["composition"]["routing"]["weights"]


def test_nothing_to_choose_from(clean: Admin, error: Callable[[httpx.Response, int], str]) -> None:
    message = error(clean.server.chat("auto"), 400)
    for words in ("'auto'", "--examples", "policy"):
        assert words in message
    ids = {model["id"] for model in clean.server.http.get("/v1/models").json()["data"]}
    assert "auto" not in ids
    assert "auto" in error(clean.put("auto", "polite"), 409)


def test_examples_come_with_the_adapter_and_stay(clean: Admin) -> None:
    made = clean.put("where", "polite", examples=WHERE)
    assert made.json()["profile"] == {"examples": WHERE, "description": None}
    clean.put("count", "rude", description="count on from a number")
    assert told(clean) == {"where": 1.0}
    assert told(clean, "Count on from 99") == {"count": 1.0}
    assert clean.says("auto") == POLITE
    ids = {model["id"] for model in clean.server.http.get("/v1/models").json()["data"]}
    assert "auto" in ids
    # New content, and a return to the old one, keep the texts.
    clean.put("where", "rude")
    assert clean.says("auto") == RUDE
    clean.http.post("/v1/adapters/where/rollback")
    assert clean.says("auto") == POLITE
    shown = clean.http.get("/v1/adapters/where").json()
    assert shown["profile"]["examples"] == WHERE
    assert shown["action"] == "rollback"


def test_a_profile_is_replaced_as_a_whole(
    clean: Admin, error: Callable[[httpx.Response, int], str]
) -> None:
    clean.put("where", "polite", examples=WHERE, description="homes")
    number = clean.http.get("/v1/adapters/where").json()["number"]
    path = "/v1/adapters/where/profile"
    changed = clean.http.put(path, json={"examples": COUNT}, headers={"If-Match": f'"{number}"'})
    assert changed.headers["etag"] == f'"{number + 1}"'
    assert changed.json()["profile"] == {"examples": COUNT, "description": None}
    assert changed.json()["action"] == "profile"
    stale = clean.http.put(path, json={}, headers={"If-Match": f'"{number}"'})
    assert "expected" in error(stale, 409)
    assert "examples[1]" in error(clean.http.put(path, json={"examples": ["x", ""]}), 400)
    assert "profile.example is not a field" in error(
        clean.http.put(path, json={"example": ["x"]}), 400
    )
    assert "no adapter" in error(clean.http.put("/v1/adapters/nobody/profile", json={}), 404)
    clean.put("where", "polite", description="homes")
    profile = clean.http.get("/v1/adapters/where").json()["profile"]
    assert profile == {"examples": COUNT, "description": "homes"}


def test_every_way_to_publish_takes_them(
    clean: Admin, root: Path, error: Callable[[httpx.Response, int], str]
) -> None:
    names = ("adapter_config.json", "adapter_model.safetensors")
    files = {name: (name, (root / "rude" / name).read_bytes()) for name in names}
    fields = {"examples": json.dumps(WHERE), "description": json.dumps("homes")}
    made = clean.http.put("/v1/adapters/where", files=files, data=fields)
    assert made.json()["profile"] == {"examples": WHERE, "description": "homes"}
    wrong = clean.http.put("/v1/adapters/where", files=files, data={"examples": "no JSON"})
    assert "'examples' is not JSON" in error(wrong, 400)
    body = {"lora_name": "count", "lora_path": "polite", "load_inplace": True, "examples": COUNT}
    assert clean.http.post("/v1/load_lora_adapter", json=body).status_code == 200
    assert clean.http.get("/v1/adapters/count").json()["profile"]["examples"] == COUNT


def test_policies_hold(clean: Admin) -> None:
    clean.put("where", "polite", examples=WHERE)
    clean.put("count", "rude", examples=WHERE, policy={"compositions": False})
    assert told(clean) == {"where": 1.0}
    path = "/v1/adapters/where/policy"
    clean.http.put(path, json={"keys": ["friend"]})
    assert clean.server.chat("auto").status_code == 400
    clean.server.http.headers["Authorization"] = "Bearer friend"
    try:
        assert told(clean) == {"where": 1.0}
        # An adapter that the request names is refused, even if another one would be chosen.
        experts = {"recipe": "mixture", "experts": ["where", "count"], "router": "prompt"}
        named = clean.server.chat("base", composition=experts | {"top_k": 1})
        assert named.status_code == 403
        assert "'count'" in named.json()["error"]["message"]
    finally:
        del clean.server.http.headers["Authorization"]
        clean.http.put(path, json={})
        clean.http.put("/v1/adapters/count/policy", json={})


def test_a_candidate_that_leaves_is_kept_to_the_end(clean: Admin) -> None:
    """The sequence comes to `where` at its first token, long after it was deleted."""
    clean.put("where", "polite")
    dot = clean.server.tokens(".")
    assert len(dot) == 1
    composition = SEQUENCE | {"router": {"kind": "sequence", "at": dot}, "explain": True}
    fields = {"composition": composition, "max_tokens": 60, "ignore_eos": True}
    whole = clean.server.chat("base", QUESTION, **fields).json()
    text = ""
    deleted = False
    body = {
        "model": "base",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "stream": True,
        **fields,
    }
    with clean.server.http.stream("POST", "/v1/chat/completions", json=body) as stream:
        for line in stream.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            text += "".join(c["delta"].get("content") or "" for c in chunk["choices"])
            if not deleted:
                deleted = clean.http.delete("/v1/adapters/where").status_code == 200
    assert deleted
    assert text == whole["choices"][0]["message"]["content"]
    assert text.startswith(PLAIN)
    assert chunk["composition"]["routing"] == whole["composition"]["routing"]
    assert chunk["composition"]["routing"]["tokens"][-1] == "where"
    gone = clean.server.chat("base", composition=composition)
    assert gone.status_code == 404
