"""The calls of administrators, over a real connection: what is sent, and how answers are read."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from clients import (
    ApiError,
    BadRequest,
    Client,
    Conflict,
    Forbidden,
    InvalidResponse,
    NotFound,
    ServerError,
)
from clients.adapter_calls import FILES
from clients.responses import AdapterPolicy
from tests.clients.admin_loopback import DIGEST, KEY, PROFILE, REPORT
from tests.clients.conftest import Blocking, Caller

EMPTY = hashlib.sha256().hexdigest()
MIB = 2**20


def sent(answer: Any) -> dict[str, Any]:
    """What the server received, without what every request has."""
    received: dict[str, Any] = dict(answer.origin)
    received.pop("content-length", None)
    if received.get("sha256") == EMPTY:
        del received["sha256"]
    return received


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files with the names of an adapter's, and a third that is not to be sent."""
    for size, name in enumerate((*FILES, "README.md")):
        (tmp_path / name).write_bytes(name.encode() * (1 + 100_000 * size))
    return tmp_path


def test_an_adapter(caller: Caller) -> None:
    entry = caller.call("get_adapter", "team/a b")  # must be quoted in the path
    assert sent(entry) == {"line": "GET /v1/adapters/team%2Fa%20b"}
    assert (entry.alias, entry.number, entry.action) == ("team/a b", 3, "publish")
    assert (entry.digest, entry.served, entry.error) == (DIGEST, True, None)
    assert entry.policy.negative is False
    assert entry.profile.model_dump(mode="json") == PROFILE
    assert entry.policy.keys == (f"sha256:{sha256(b'friend')}",)
    assert entry.adapter.model_dump() == {
        **REPORT.to_json(),
        "scaling": REPORT.scaling,
        "modules": REPORT.modules,
        "dtypes": REPORT.dtypes,
        "warnings": (),
    }


def test_all_adapters(caller: Caller) -> None:
    adapters = caller.call("list_adapters")
    assert [(entry.alias, entry.served) for entry in adapters.data] == [
        ("broken", False),
        ("polite", True),
    ]
    assert adapters.data[0].error == "no\nroom"
    assert adapters.retiring == ("polite@0123456789ab",)
    assert sent(adapters.data[0]) == {"line": "GET /v1/adapters"}


def test_history(caller: Caller) -> None:
    versions = caller.call("adapter_history", "gone")
    assert [(v.number, v.action, v.digest) for v in versions] == [
        (1, "publish", DIGEST),
        (2, "policy", DIGEST),
        (3, "delete", None),
    ]
    assert sent(versions[0]) == {"line": "GET /v1/adapters/gone/history"}


@pytest.mark.parametrize("what", ["source", "merge", "extract", "patch"])
@pytest.mark.parametrize("policy", [None, {"negative": False}, AdapterPolicy(negative=False)])
def test_a_publication_that_the_server_makes(caller: Caller, what: str, policy: Any) -> None:
    value = "hf://org/name" if what == "source" else {"method": "sum"}
    entry = caller.call("put_adapter", "new", **{what: value}, policy=policy)
    whole = {"compositions": True, "negative": False, "keys": None}
    rules = {None: {}, dict: {"policy": policy}}.get(policy and type(policy), {"policy": whole})
    assert sent(entry) == {
        "line": "PUT /v1/adapters/new",
        "content-type": "application/json",
        "json": {what: value, **rules},
    }


@pytest.mark.parametrize("policy", [None, {"keys": ["ü", "b"]}])
def test_files_are_sent_as_a_form(caller: Caller, folder: Path, policy: Any) -> None:
    received = sent(caller.call("put_adapter", "new", files=folder, policy=policy))
    assert received.pop("content-type").startswith("multipart/form-data; boundary=")
    rules = {} if policy is None else {"policy": policy}
    files = {name: [name, sha256((folder / name).read_bytes())] for name in FILES}
    assert received == {"line": "PUT /v1/adapters/new", **files, **rules}


def test_a_publication_says_what_it_is_for(caller: Caller, folder: Path) -> None:
    texts: dict[str, Any] = {"examples": ("ü?", "b"), "description": "manners"}
    as_json = {"examples": ["ü?", "b"], "description": "manners"}
    entry = caller.call("put_adapter", "new", source="x", **texts)
    assert sent(entry)["json"] == {"source": "x", **as_json}
    received = sent(caller.call("put_adapter", "new", files=folder, **texts))
    assert {name: received[name] for name in as_json} == as_json
    received = sent(caller.call("put_adapter", "new", source="x", examples=[]))
    assert received["json"] == {"source": "x", "examples": []}
    with pytest.raises(ValueError, match="list of texts"):
        caller.call("put_adapter", "new", source="x", examples="one")
    with pytest.raises(ValueError, match="an archive takes no examples"):
        caller.call("put_adapter", "new", archive=folder / FILES[0], examples=["one"])


@pytest.mark.parametrize(
    ("name", "media"),
    [
        ("a.zip", "zip"),
        ("a.ZIP", "zip"),
        ("a.tar.gz", "gzip"),
        ("a.tgz", "gzip"),
        ("a.tar", "x-tar"),
        ("a.json", "octet-stream"),  # else the server would read the body as a recipe
    ],
)
def test_an_archive_is_sent_as_it_is(caller: Caller, tmp_path: Path, name: str, media: str) -> None:
    data = b"archive " * 100_000
    (tmp_path / name).write_bytes(data)
    entry = caller.call("put_adapter", "new", archive=tmp_path / name, if_match=2)
    assert entry.origin["content-length"] == str(len(data))
    assert sent(entry) == {
        "line": "PUT /v1/adapters/new",
        "content-type": f"application/{media}",
        "if-match": '"2"',
        "sha256": sha256(data),
    }


@pytest.mark.parametrize("form", [True, False])
def test_large_files_are_not_read_into_memory(caller: Caller, tmp_path: Path, form: bool) -> None:
    for name in FILES:
        with (tmp_path / name).open("wb") as file:
            file.truncate(48 * MIB)
    what = {"files": tmp_path} if form else {"archive": tmp_path / FILES[1]}
    tracemalloc.start()
    try:
        entry = caller.call("put_adapter", "new", **what)
        _, peak_bytes = tracemalloc.get_traced_memory()  # of the server as well
    finally:
        tracemalloc.stop()
    assert int(entry.origin["content-length"]) >= 48 * MIB
    assert peak_bytes < 24 * MIB


@pytest.mark.parametrize(
    ("method", "arguments", "expected"),
    [
        ("put_adapter", {"source": "x"}, {"json": {"source": "x"}}),
        ("rollback_adapter", {}, {}),
        ("rollback_adapter", {"to": 2}, {"json": {"to": 2}}),
        ("delete_adapter", {}, {}),
        ("set_policy", {"policy": {"keys": None}}, {"json": {"keys": None}}),
        ("set_profile", {}, {"json": {}}),
        (
            "set_profile",
            {"examples": (), "description": ""},
            {"json": {"examples": [], "description": ""}},
        ),
        ("set_profile", {"examples": ("a", "b")}, {"json": {"examples": ["a", "b"]}}),
    ],
)
@pytest.mark.parametrize("if_match", [None, 0, 12])
def test_changes(
    caller: Caller, method: str, arguments: dict[str, Any], expected: Any, if_match: int | None
) -> None:
    entry = caller.call(method, "polite", **arguments, if_match=if_match)
    received = sent(entry)
    verb, tail = {
        "put_adapter": ("PUT", ""),
        "rollback_adapter": ("POST", "/rollback"),
        "delete_adapter": ("DELETE", ""),
        "set_policy": ("PUT", "/policy"),
        "set_profile": ("PUT", "/profile"),
    }[method]
    assert received.pop("line") == f"{verb} /v1/adapters/polite{tail}"
    assert received.pop("if-match", None) == (None if if_match is None else f'"{if_match}"')
    assert received.pop("content-type", "application/json") == "application/json"
    assert received == expected
    assert (entry.digest is None) == (method == "delete_adapter")


def test_only_if_there_is_none(caller: Caller) -> None:
    entry = caller.call("put_adapter", "new", source="x", if_none_match=True)
    assert sent(entry)["if-none-match"] == "*"


def test_the_key_of_administrators(url: str) -> None:
    with Client(url, api_key=KEY) as client:
        entry = client.delete_adapter("polite", if_match=3)
    assert entry.origin["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing is given"),
        ({"source": "x", "merge": {}}, "source, merge is given"),
        ({"source": "x", "if_match": 1, "if_none_match": True}, "contradict"),
        ({"files": Path("/nowhere")}, "/nowhere/adapter_config.json"),
        ({"archive": Path("/nowhere.zip")}, "no file '/nowhere.zip'"),
        ({"archive": Path(__file__), "policy": {}}, "no policy"),
    ],
)
def test_calls_that_are_wrong(caller: Caller, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        caller.call("put_adapter", "new", **arguments)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, BadRequest),
        (401, Forbidden),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (413, BadRequest),
        (502, ServerError),
        (503, ServerError),
    ],
)
def test_refusals(caller: Caller, tmp_path: Path, status: int, expected: type[ApiError]) -> None:
    alias = f"status-{status}"
    calls: list[tuple[str, dict[str, Any]]] = [
        ("get_adapter", {}),
        ("adapter_history", {}),
        ("rollback_adapter", {}),
        ("delete_adapter", {}),
        ("set_policy", {"policy": {}}),
        ("put_adapter", {"source": "x"}),
    ]
    for method, arguments in calls:
        with pytest.raises(expected) as caught:
            caller.call(method, alias, **arguments)
        assert type(caught.value) is expected
        assert (caught.value.status, caught.value.code) == (status, f"code_{status}")


def test_a_refusal_arrives_before_the_upload_is_complete(caller: Caller, tmp_path: Path) -> None:
    with (tmp_path / "a.zip").open("wb") as file:
        file.truncate(32 * MIB)
    with pytest.raises(Forbidden, match="error 401"):
        caller.call("put_adapter", "status-401", archive=tmp_path / "a.zip")


def test_an_answer_of_another_service(caller: Caller) -> None:
    with pytest.raises(InvalidResponse, match="as Adapter: number"):
        caller.call("get_adapter", "foreign")


def test_answers_say_which_generations_computed_them(kind: type[Blocking], url: str) -> None:
    answer = kind(url).call("chat", "Hi", model="polite")
    assert answer.adapters == {"polite": DIGEST}
    assert kind(url).call("chat", "Hi").adapters is None
    chunks = kind(url).chunks("stream_chat", "Hi", model="polite")
    assert [chunk.adapters is not None for chunk in chunks] == [True, False, False, True]
    assert chunks[0].adapters == {"polite": DIGEST}
