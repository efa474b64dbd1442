"""Adapters published, replaced, rolled back and removed while the server runs."""

from __future__ import annotations

import io
import json
import re
import resource
import shutil
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adapters import Store
from tests.server.administration import (
    ENVIRONMENT,
    PLAIN,
    POLITE,
    QUESTION,
    RUDE,
    Admin,
    StallingSource,
)
from tests.support.live_server import ROOT, LiveServer, serving

# ---- the life of an alias


def test_publish_replace_roll_back_delete(admin: Admin) -> None:
    first = admin.put("manner", "polite")
    assert (first.status_code, first.headers["etag"]) == (201, '"1"')
    assert admin.says("manner") == POLITE
    second = admin.put("manner", "rude")
    assert (second.status_code, second.headers["etag"]) == (200, '"2"')
    assert second.json()["digest"] != first.json()["digest"]
    answer = admin.server.chat("manner", QUESTION, max_tokens=24).json()
    assert answer["choices"][0]["message"]["content"] == RUDE
    assert answer["adapters"] == {"manner": second.json()["digest"]}
    assert answer["model"] == "manner"

    back = admin.http.post("/v1/adapters/manner/rollback")
    assert back.json()["digest"] == first.json()["digest"]
    assert admin.says("manner") == POLITE
    gone = admin.http.delete("/v1/adapters/manner")
    assert gone.status_code == 200
    assert admin.server.chat("manner").status_code == 404
    assert admin.http.get("/v1/adapters/manner").status_code == 404

    history = admin.http.get("/v1/adapters/manner/history").json()["data"]
    assert [v["action"] for v in history] == ["publish", "publish", "rollback", "delete"]
    assert [v["number"] for v in history] == [1, 2, 3, 4]
    assert all("127.0.0.1" in v["actor"] for v in history)
    assert admin.http.post("/v1/adapters/manner/rollback", json={"to": 2}).status_code == 200
    assert admin.says("manner") == RUDE


def test_compare_and_swap(admin: Admin, error: Callable[[httpx.Response, int], str]) -> None:
    new = {"If-None-Match": "*"}
    assert admin.put("swapped", "polite", headers=new).status_code == 201
    assert "expected" in error(admin.put("swapped", "rude", headers=new), 409)
    assert "7" in error(admin.put("swapped", "rude", headers={"If-Match": '"7"'}), 409)
    assert admin.says("swapped") == POLITE
    assert admin.put("swapped", "rude", headers={"If-Match": '"1"'}).headers["etag"] == '"2"'
    stale = {"If-Match": '"1"'}
    assert admin.http.delete("/v1/adapters/swapped", headers=stale).status_code == 409
    assert admin.http.post("/v1/adapters/swapped/rollback", headers=stale).status_code == 409
    assert "ETag" in error(admin.put("swapped", "rude", headers={"If-Match": "one"}), 400)
    assert admin.says("swapped") == RUDE


def test_a_request_in_flight_finishes_on_its_generation(admin: Admin) -> None:
    admin.put("flying", "polite")
    fields = {"max_tokens": 120, "ignore_eos": True}
    old = admin.says("flying", **fields)
    body = {
        "model": "chat + 0.5*flying",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "stream": True,
        **fields,
    }
    expected = admin.says("chat + 0.5*flying", **fields)
    texts: dict[str, str] = {}
    swapped = threading.Event()

    def read(model: str) -> None:
        told = None
        with admin.server.http.stream(
            "POST", "/v1/chat/completions", json=body | {"model": model}
        ) as stream:
            text = ""
            for line in stream.iter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line.removeprefix("data: "))
                    told = told or chunk["adapters"]["flying"]
                    text += "".join(c["delta"].get("content") or "" for c in chunk["choices"])
                    if not swapped.is_set():
                        replaced = admin.put("flying", "rude")
                        assert replaced.json()["digest"] != told
                        swapped.set()
        texts[model] = text

    read("flying")
    assert texts["flying"] == old
    swapped.clear()
    admin.put("flying", "polite")
    read("chat + 0.5*flying")
    assert texts["chat + 0.5*flying"] == expected
    assert admin.says("flying") == RUDE


def test_retired_generations_are_forgotten(admin: Admin) -> None:
    for source in ("polite", "rude", "polite", "rude"):
        admin.put("often", source)
        admin.says("often")
    deadline = time.monotonic() + 10
    while admin.http.get("/v1/adapters").json()["retiring"]:
        assert time.monotonic() < deadline, "a replaced generation is still held by somebody"
        time.sleep(0.05)


def test_stored_compositions_follow_their_aliases(admin: Admin) -> None:
    admin.put("followed", "polite")
    admin.server.http.put("/v1/compositions/formula", json="chat + 1.0*(followed - chat)")
    assert admin.says("formula") == POLITE
    admin.put("followed", "rude")
    assert admin.says("formula") == RUDE
    admin.http.delete("/v1/adapters/followed")
    assert admin.server.chat("formula").status_code == 404


def test_a_stale_prefix_is_never_served(admin: Admin) -> None:
    """vLLM caches prefixes by the adapter's name."""
    words = " ".join(f"k{n}" for n in range(60))
    for _ in range(2):
        answers = {}
        for source in ("polite", "rude"):
            admin.put("prefix", source)
            answer = admin.server.complete("prefix", f"{words} {QUESTION}", logprobs=1)
            twin = admin.server.complete("prefix", f"{words} {QUESTION}", logprobs=1)
            answers[source] = answer.json()["choices"][0]["logprobs"]["token_logprobs"]
            again = twin.json()["choices"][0]["logprobs"]["token_logprobs"]
            assert again == pytest.approx(answers[source], abs=1e-4)
        assert answers["polite"] != pytest.approx(answers["rude"], abs=1e-2)


# ---- who may do what


def test_only_with_the_key(admin: Admin, error: Callable[[httpx.Response, int], str]) -> None:
    open_door = admin.server.http
    assert "'publish'" in error(open_door.get("/v1/adapters"), 401)
    wrong = {"Authorization": "Bearer wrong"}
    refused = open_door.put("/v1/adapters/x", json={}, headers=wrong)
    assert "the API key of this request is not known" in error(refused, 401)
    assert open_door.post("/v1/load_lora_adapter", json={}).status_code == 401


def test_a_server_without_a_key_has_no_such_routes(server: LiveServer) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    assert server.http.get("/v1/adapters", headers=wrong).status_code == 404
    assert server.http.post("/v1/load_lora_adapter", json={}).status_code == 404


def test_policies(admin: Admin, error: Callable[[httpx.Response, int], str]) -> None:
    closed = {"compositions": False}
    made = admin.put("guarded", "polite", policy=closed)
    assert made.json()["policy"]["compositions"] is False
    assert admin.says("guarded") == POLITE
    assert "guarded" in error(admin.server.chat("chat + 0.5*guarded"), 403)
    path = "/v1/adapters/guarded/policy"
    assert admin.http.put(path, json={"negative": False}).headers["etag"] == '"2"'
    assert admin.server.chat("chat + 0.5*guarded").status_code == 200
    assert "-0.5" in error(admin.server.chat("chat - 0.5*guarded"), 403)
    # The policy stays when the content changes.
    admin.put("guarded", "rude")
    assert admin.server.chat("chat - 0.5*guarded").status_code == 403
    admin.http.put(path, json={"keys": ["friend"]})
    assert "API key" in error(admin.server.chat("guarded"), 403)
    assert admin.server.chat("chat + 0.5*guarded").status_code == 403
    admin.server.http.headers["Authorization"] = "Bearer friend"
    try:
        assert admin.says("guarded") == RUDE
    finally:
        del admin.server.http.headers["Authorization"]
    shown = admin.http.get("/v1/adapters/guarded").text
    assert "friend" not in shown
    assert "nagative" in error(admin.http.put(path, json={"nagative": False}), 400)


def test_the_engines_name_is_no_way_around_a_policy(admin: Admin) -> None:
    digest = admin.put("inner", "polite", policy={"keys": []}).json()["digest"]
    name = f"inner@{digest[:12]}"
    assert admin.server.chat(name).status_code == 404
    assert admin.server.complete(name).status_code == 404
    other = admin.server.http.post("/tokenize", json={"model": name, "prompt": "x"})
    assert other.status_code == 404
    assert (
        admin.server.http.post("/tokenize", json={"model": "inner", "prompt": "x"}).status_code
        == 403
    )
    for model in ("inner", "base + 0.5*inner"):
        assert admin.server.http.get(f"/v1/models/{model}").status_code == 403


# ---- where adapters come from


def archive(folder: Path, kind: str, rename: Callable[[str], str] = str) -> bytes:
    data = io.BytesIO()
    names = ("adapter_config.json", "adapter_model.safetensors")
    if kind == "zip":
        with zipfile.ZipFile(data, "w") as out:
            for name in names:
                out.write(folder / name, rename(name))
    else:
        with tarfile.open(fileobj=data, mode="w:gz") as tar:
            for name in names:
                tar.add(folder / name, rename(name))
    return data.getvalue()


@pytest.mark.parametrize("kind", ["zip", "gzip"])
def test_an_archive(admin: Admin, root: Path, kind: str) -> None:
    data = archive(root / "rude", kind, lambda name: f"rude/{name}")
    headers = {"Content-Type": f"application/{kind}"}
    made = admin.http.put(f"/v1/adapters/from_{kind}", content=data, headers=headers)
    assert made.status_code == 201, made.text
    assert made.json()["digest"] == admin.put("same", "rude").json()["digest"]
    assert admin.says(f"from_{kind}") == RUDE


def test_a_form(admin: Admin, root: Path) -> None:
    names = ("adapter_config.json", "adapter_model.safetensors")
    files = {name: (name, (root / "rude" / name).read_bytes()) for name in names}
    policy = {"policy": json.dumps({"negative": False})}
    made = admin.http.put("/v1/adapters/from_form", files=files, data=policy)
    assert made.status_code == 201, made.text
    assert made.json()["policy"]["negative"] is False
    assert admin.says("from_form") == RUDE


def test_a_form_with_both_files_in_one_field(admin: Admin, root: Path) -> None:
    names = ("adapter_config.json", "adapter_model.safetensors")
    files = [("files", (name, (root / "rude" / name).read_bytes())) for name in names]
    made = admin.http.put("/v1/adapters/one_field", files=files)
    assert made.status_code == 201, made.text
    assert admin.says("one_field") == RUDE
    twice = admin.http.put("/v1/adapters/one_field", files=[files[0], files[0]])
    assert twice.status_code == 400
    assert "adapter_config.json twice" in twice.json()["error"]["message"]


def test_an_archive_with_a_policy(admin: Admin, root: Path) -> None:
    files = {"archive": ("rude.zip", archive(root / "rude", "zip"))}
    policy = {"policy": json.dumps({"compositions": False})}
    made = admin.http.put("/v1/adapters/zipped", files=files, data=policy)
    assert made.status_code == 201, made.text
    assert made.json()["policy"]["compositions"] is False


def test_an_upload_outlives_the_start_of_another_server(admin: Admin, root: Path) -> None:
    """Which sweeps the store of what dead processes left."""
    data = archive(root / "rude", "zip")

    half = len(data) // 2  # more than any buffer on the way

    def parts() -> Iterator[bytes]:
        yield data[:half]
        deadline = time.monotonic() + 20
        while not any(f.stat().st_size for f in (root.parent / "store").glob("staging/**/archive")):
            assert time.monotonic() < deadline, "the upload does not arrive"
        Store(root.parent / "store")
        yield data[half:]

    made = admin.http.put("/v1/adapters/slow", content=parts())
    assert made.status_code == 201, made.text


def test_a_broken_form(admin: Admin, error: Callable[[httpx.Response, int], str]) -> None:
    headers = {"Content-Type": "multipart/form-data"}
    sent = admin.http.put("/v1/adapters/never", content=b"no form", headers=headers)
    assert "cannot be read" in error(sent, 400)


def test_what_is_no_adapter(
    admin: Admin, root: Path, error: Callable[[httpx.Response, int], str]
) -> None:
    url = "/v1/adapters/never"
    escaping = archive(root / "rude", "gzip", lambda name: f"../{name}")
    assert ".." in error(admin.http.put(url, content=escaping), 400)
    assert "archive" in error(admin.http.put(url, content=b"what is this?"), 400)
    assert "empty" in error(admin.http.put(url, content=b""), 400)
    assert "source, merge" in error(admin.http.put(url, json={"path": "polite"}), 400)
    assert "not JSON" in error(
        admin.http.put(url, content=b"{", headers={"Content-Type": "application/json"}), 400
    )
    large = admin.http.put(url, content=b"\0" * (9 << 20))
    assert "--max-adapter-mib" in error(large, 413)
    wrong = {"x.bin": ("x.bin", b"1")}
    assert "x.bin" in error(admin.http.put(url, files=wrong), 400)
    assert admin.http.get(url).status_code == 404


def test_sources_that_are_not_allowed(
    admin: Admin, root: Path, tmp_path: Path, error: Callable[[httpx.Response, int], str]
) -> None:
    shutil.copytree(root / "polite", tmp_path / "outside")
    for source in (str(tmp_path / "outside"), f"../{tmp_path.name}/outside", "/etc"):
        # An error text shows the beginning of a long value.
        assert source[:60] in error(admin.put("never", source), 400)
    (root / "link").symlink_to(tmp_path / "outside")
    assert "link" in error(admin.put("never", "link"), 400)
    assert "allowed sources" in error(admin.put("never", "https://example.com/a.zip"), 400)
    assert "nowhere" in error(admin.put("never", "nowhere"), 400)
    assert admin.http.get("/v1/adapters/never").status_code == 404


def test_adapters_that_cannot_be_served(
    admin: Admin, root: Path, error: Callable[[httpx.Response, int], str]
) -> None:
    assert "same logits with it and without it" in error(admin.put("never", "nothing"), 400)
    wide = root / "wide"
    shutil.copytree(root / "polite", wide)
    tensors = load_file(wide / "adapter_model.safetensors")
    first = sorted(tensors)[0]
    save_file(
        tensors | {first: torch.cat([tensors[first]] * 2, dim=1)},
        wide / "adapter_model.safetensors",
    )
    told = error(admin.put("never", "wide"), 400)
    assert "shape" in told
    assert told.startswith("adapter 'never': "), "the folder of the unfinished publication shows"
    for name in ("base", "a b", "a@b", "-x", "x" * 65):
        told = error(admin.put(name, "polite"), 409 if name == "base" else 400)
        assert name == "base" or "letters, digits, _ . and -" in told
    admin.server.http.put("/v1/compositions/taken", json="chat")
    assert "taken" in error(admin.put("taken", "polite"), 409)
    # Nothing else in the server notices.
    assert admin.says("chat") == PLAIN


@pytest.mark.parametrize(
    ("name", "config", "value"),
    [
        ("alpha", {"lora_alpha": 1e308}, None),
        ("pattern", {"alpha_pattern": {"q_proj": 1e39}}, None),
        ("not_finite", {"lora_alpha": float("nan")}, None),
        ("factor", {}, 3e38),
        ("half", {}, 1e5),
    ],
)
def test_what_is_not_finite_reaches_no_answer(
    admin: Admin,
    root: Path,
    error: Callable[[httpx.Response, int], str],
    name: str,
    config: dict[str, float],
    value: float | None,
) -> None:
    """NaN in a block of the KV cache would be read by the requests that get the block next."""
    poisoned = root / f"poisoned_{name}"
    shutil.copytree(root / "polite", poisoned)
    file = poisoned / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    if value is not None:
        tensors = load_file(poisoned / "adapter_model.safetensors")
        first = sorted(tensors)[0]
        tensors[first][0, 0] = value
        save_file(tensors, poisoned / "adapter_model.safetensors")
    admin.put("healthy", "polite")

    def answers() -> tuple[list[str], list[float]]:
        """Of every other model: texts, and the log-probabilities of their tokens."""
        prompts = [f"{QUESTION} {n}" for n in range(4)]
        choices = [
            choice
            for model in ("base", "chat", "healthy", "chat + 0.5*(healthy - chat)")
            for choice in admin.server.complete(model, prompts, logprobs=1).json()["choices"]
        ]
        numbers = [p for choice in choices for p in choice["logprobs"]["token_logprobs"]]
        return [choice["text"] for choice in choices], numbers

    texts, numbers = answers()
    assert error(admin.put("poisoned", f"poisoned_{name}"), 400)
    assert admin.http.get("/v1/adapters/poisoned").status_code == 404
    again, same = answers()
    assert again == texts
    assert same == pytest.approx(numbers, abs=1e-4)


def test_vllms_own_bodies(admin: Admin, error: Callable[[httpx.Response, int], str]) -> None:
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    body = {"lora_name": "compat", "lora_path": "polite"}
    done = admin.http.post(load, json=body)
    assert (done.status_code, done.text) == (
        200,
        "Success: LoRA adapter 'compat' added successfully.",
    )
    assert admin.says("compat") == POLITE
    assert "load_inplace" in error(admin.http.post(load, json=body), 400)
    again = body | {"lora_path": "rude", "load_inplace": True}
    assert admin.http.post(load, json=again).status_code == 200
    assert admin.says("compat") == RUDE
    assert admin.http.post(unload, json={"lora_name": "compat"}).status_code == 200
    assert admin.server.chat("compat").status_code == 404
    assert admin.http.post(unload, json={"lora_name": "compat"}).status_code == 404


def test_a_merge_becomes_a_generation(
    admin: Admin, error: Callable[[httpx.Response, int], str]
) -> None:
    admin.put("one", "polite")
    admin.put("two", "rude")
    inputs = [{"adapter": "one", "weight": 0.5}, {"adapter": "two", "weight": 0.5}]
    spec = {"method": "svd", "adapters": inputs, "rank": 16}
    made = admin.http.put("/v1/adapters/merged", json={"merge": spec})
    assert made.status_code == 201, made.text
    assert made.json()["origin"]["merge"] == spec
    assert made.json()["origin"]["inputs"]["one"] == admin.put("one", "polite").json()["digest"]
    assert "Kuti Supiv" in admin.says("merged")
    bad = {"merge": spec | {"method": "soup"}}
    assert "soup" in error(admin.http.put("/v1/adapters/merged", json=bad), 400)
    unknown = {"merge": spec | {"adapters": [{"adapter": "nobody", "weight": 1}]}}
    assert "nobody" in error(admin.http.put("/v1/adapters/merged", json=unknown), 404)


def test_a_full_fine_tune_and_a_patch_become_generations(
    admin: Admin, root: Path, zoo_base: Path, error: Callable[[httpx.Response, int], str]
) -> None:
    """The fine-tune is the base with `polite` merged into its weights."""
    model: Any = AutoModelForCausalLM.from_pretrained(zoo_base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, str(root / "polite")).merge_and_unload()
    merged.save_pretrained(root / "tuned")
    for file in zoo_base.glob("tokenizer*"):
        shutil.copy(file, root / "tuned")
    extract = {"extract": {"tuned": "tuned", "rank": 16}}
    made = admin.http.put("/v1/adapters/extracted", json=extract)
    assert made.status_code == 201, made.text
    assert admin.says("extracted") == POLITE
    patched = admin.http.put("/v1/adapters/patched", json={"patch": {"source": "rude"}})
    assert patched.status_code == 201, patched.text
    assert admin.says("patched") == RUDE
    outside = {"extract": {"tuned": "../tuned", "rank": 16}}
    assert "not a folder below" in error(
        admin.http.put("/v1/adapters/extracted", json=outside), 400
    )
    unknown = {"extract": {"tuned": "tuned", "rank": 16, "colour": "red"}}
    assert "colour" in error(admin.http.put("/v1/adapters/extracted", json=unknown), 400)


# ---- several servers, one store


@pytest.mark.slow
def test_another_server_on_the_same_store(admin: Admin, arguments: list[str], root: Path) -> None:
    admin.put("shared", "polite")
    log = root.parent / "second.txt"
    with ExitStack() as stack:
        live = stack.enter_context(serving(arguments, log, ENVIRONMENT))
        second = Admin(live)
        stack.enter_context(second.http)
        assert second.says("shared") == POLITE  # published before it started
        admin.put("shared", "rude")
        deadline = time.monotonic() + 20
        while second.says("shared") != RUDE:
            assert time.monotonic() < deadline, "the second server does not follow the store"
            time.sleep(0.1)
        second.put("shared", "chat", headers={"If-Match": '"2"'})
        assert second.says("shared") == PLAIN
        stale = admin.put("shared", "polite", headers={"If-Match": '"2"'})
        assert stale.status_code == 409
        while admin.says("shared") != PLAIN:
            assert time.monotonic() < deadline, "the first server does not follow the store"
            time.sleep(0.1)
        # Whoever says what it has written, is answered by a server that knows it.
        url = "/v1/compositions/replicated"
        for n, (one, other) in enumerate(((admin, second), (second, admin)) * 3, 1):
            put = one.http.put(url, json=f"base + {n}*chat")
            seen = {"X-Composer-Store": f">={put.headers['x-composer-store']}"}
            assert other.http.get(url, headers=seen).json()["composition"] == f"base + {n}*chat"
            body = {"model": "replicated", "prompt": QUESTION, "max_tokens": 2}
            answer = other.http.post("/v1/completions", json=body, headers=seen)
            assert answer.json()["composition"]["plan"]["formula"] == (
                "base + chat" if n == 1 else f"base + {n}*chat"
            )
            swapped = one.put("swapped_shared", ("polite", "rude")[n % 2])
            seen = {"X-Composer-Store": f">={swapped.headers['x-composer-store']}"}
            body = {"model": "swapped_shared", "prompt": QUESTION, "max_tokens": 2}
            answer = other.http.post("/v1/completions", json=body, headers=seen)
            assert answer.json()["adapters"]["swapped_shared"] == swapped.json()["digest"]
        assert second.http.put("/v1/compositions/shared", json="base").status_code == 409
        assert second.http.delete(url).status_code == 200
        second.http.delete("/v1/adapters/shared")
        while admin.server.chat("shared").status_code == 200:
            assert time.monotonic() < deadline, "the first server serves what was deleted"
            time.sleep(0.1)


def test_more_adapters_than_stay_in_memory(admin: Admin) -> None:
    """Six stay in memory, three run at once."""
    names = [f"many{n}" for n in range(8)]
    for n, name in enumerate(names):
        assert admin.put(name, ("polite", "rude")[n % 2]).status_code == 201
    for _ in range(2):
        for n, name in enumerate(names):
            assert admin.says(name) == (POLITE, RUDE)[n % 2]


def test_an_adapter_whose_files_are_gone_fails_its_own_requests(
    admin: Admin, root: Path, error: Callable[[httpx.Response, int], str]
) -> None:
    """The load of `sort` fails while that of `chat` is waited for, and neither is in memory."""
    digest = admin.put("sort", "rude").json()["digest"]
    for n in range(6):  # as many as stay in memory: `sort` and `chat` leave it
        admin.put(f"other{n}", ("polite", "rude")[n % 2])
    stored = root.parent / "store" / "objects" / digest
    stored.rename(root.parent / "away")
    try:
        message = error(admin.server.chat("chat + sort", QUESTION), 503)
        assert "cannot be loaded" in message
        assert digest in message
        assert admin.server.chat("chat + sort").json()["error"]["code"] == "adapter_unavailable"
        assert admin.says("chat") == PLAIN  # the server lives, and its other adapters too
    finally:
        (root.parent / "away").rename(stored)
    assert admin.server.chat("chat + sort").status_code == 200


def test_the_list_shows_what_is_broken(admin: Admin, root: Path) -> None:
    digest = admin.put("broken", "rude").json()["digest"]
    stored = root.parent / "store" / "objects" / digest
    stored.rename(root.parent / "away")
    try:
        listed = admin.http.get("/v1/adapters")
        assert listed.status_code == 200
        entries = {entry["alias"]: entry for entry in listed.json()["data"]}
        assert "pruned" in entries["broken"]["error"]
        assert "adapter" not in entries["broken"]
        assert entries["chat"]["adapter"]["rank"] > 0
        assert "error" not in entries["chat"]
        one = admin.http.get("/v1/adapters/broken")
        assert (one.status_code, one.json()["error"]) == (200, entries["broken"]["error"])
    finally:
        (root.parent / "away").rename(stored)


# ---- what publishing must not do to others


def test_slow_sources_leave_the_threads_to_requests(admin: Admin, stalling: StallingSource) -> None:
    for n in range(7):  # so that `chat` and `other` have to be read again
        admin.put(f"other{n}", ("polite", "rude")[n % 2])
    answers: list[httpx.Response] = []

    def publish(n: int) -> None:
        answers.append(admin.put(f"never{n}", f"{stalling.url}{n}.zip"))

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(45)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while len(answers) < 25 or not stalling.asked:
        assert time.monotonic() < deadline, "no publication is refused"
        time.sleep(0.05)
    for name, said in (("chat", PLAIN), ("other0", POLITE)):
        assert admin.says(name) == said
    stored = admin.server.http.put("/v1/compositions/meanwhile", json="base + chat")
    assert stored.status_code == 201
    assert admin.http.delete("/v1/adapters/other1").status_code == 200
    assert not stalling.open.is_set()
    assert {answer.status_code for answer in answers} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    assert "publications" in answers[0].json()["error"]["message"]
    stalling.open.set()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 45
    assert admin.put("after", "polite").status_code == 201
    admin.server.http.delete("/v1/compositions/meanwhile")


def test_a_full_disk_is_our_error(
    admin: Admin, root: Path, error: Callable[[httpx.Response, int], str]
) -> None:
    """A limit of the size of files, which the system tells as it tells a full disk."""
    url, large = "/v1/adapters/full", b"x" * (4 << 20)
    names = ("adapter_config.json", "adapter_model.safetensors")
    before = resource.prlimit(admin.server.pid, resource.RLIMIT_FSIZE)
    limit = 2 * admin.server.log.stat().st_size + (1 << 20)
    resource.prlimit(admin.server.pid, resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        archived = admin.http.put(url, content=large)
        form = admin.http.put(url, files={name: (name, large) for name in names})
        for refused in (archived, form):
            assert "Make room on the disk" in error(refused, 507)
            assert refused.json()["error"]["code"] == "adapter_store_full"
    finally:
        resource.prlimit(admin.server.pid, resource.RLIMIT_FSIZE, before)
    assert admin.put("full", "polite").status_code == 201


def test_no_refusal_names_a_folder_of_the_server(
    admin: Admin, root: Path, zoo_base: Path, tmp_path: Path
) -> None:
    """Every way to publish, with everything that can be wrong."""
    url, http = "/v1/adapters/never", admin.http

    def broken(name: str, config: bytes | None = None, weights: bytes | None = None) -> str:
        folder = root / name
        shutil.copytree(root / "polite", folder)
        if config is not None:
            (folder / "adapter_config.json").write_bytes(config)
        if weights is not None:
            (folder / "adapter_model.safetensors").write_bytes(weights)
        return name

    config = json.loads((root / "polite" / "adapter_config.json").read_text())
    (root / "empty").mkdir()
    (root / "file").write_bytes(b"no archive")
    (root / "outwards").symlink_to(tmp_path)
    folder = root / "folders"
    (folder / "adapter_config.json").mkdir(parents=True)
    sources = [
        broken("b1", b"{"),
        broken("b2", json.dumps(config | {"peft_type": "IA3"}).encode()),
        broken("b3", json.dumps(config | {"r": 3}).encode()),
        broken("b4", None, b"12345678"),
        broken("b5", None, b""),
        broken("b6", json.dumps(config | {"r": 9999, "lora_alpha": 1}).encode()),
        *("nothing", "empty", "file", "outwards", "nowhere", "folders", "../root", ".", ""),
        *("hf://org/name", "https://example.com/a.zip", "polite\0"),
    ]
    merge: dict[str, Any] = {"method": "sum", "adapters": [{"adapter": "chat", "weight": 1e30}]}
    bodies: list[dict[str, Any]] = [
        *({"source": source} for source in sources),
        {"merge": merge},
        {"merge": merge | {"method": "soup"}},
        {"extract": {"tuned": "empty", "rank": 4}},
        {"extract": {"tuned": "polite", "rank": 4}},
        {"extract": {"tuned": "../store", "rank": 4}},
        {"extract": {"rank": 4}},
        {"patch": {"source": "b1"}},
        {"patch": {"source": "polite", "scale": 1e30}},
    ]
    answers = [http.put(url, json=body) for body in bodies]
    for kind in ("zip", "gzip"):
        data = archive(root / "b3", kind)
        answers += [http.put(url, content=data), http.put(url, content=data[: len(data) // 2])]
    answers.append(http.put(url, content=archive(root / "polite", "gzip", lambda n: f"../{n}")))
    answers.append(http.put(url, files={"archive": ("a.zip", b"PK")}))
    digest = admin.put("gone", "rude").json()["digest"]
    weights = root.parent / "store" / "objects" / digest / "adapter_model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-4])
        answers += [
            http.put(url, json={"merge": merge | {"adapters": [{"adapter": "gone", "weight": 1}]}}),
            http.post("/v1/adapters/gone/rollback", json={"to": 1}),
        ]
        listed = http.get("/v1/adapters")
    finally:
        weights.write_bytes(whole)
    assert "damaged" in listed.text
    paths = {str(path) for path in (root, root.parent, zoo_base, ROOT, Path(sys.prefix))}
    for answer in answers:
        assert 400 <= answer.status_code < 600, answer.text
        message = answer.json()["error"]["message"]
        assert not [path for path in paths if path in message], message
        assert not re.search(r"(?<![\w>./-])/(?:tmp|home|root|usr|var)\b", message), message
    for entry in listed.json()["data"]:
        assert not [path for path in paths if path in entry.get("error", "")], entry
