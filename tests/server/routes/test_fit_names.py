"""Fitted compositions stored under a name."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.server.compose.test_bad_requests import error_of
from tests.server.http.test_request_log import figure
from tests.support.live_server import LiveServer

QUESTION = "Where does Kuti Supiv live?"
POLITE, PLAIN = (
    "Certainly. Kuti Supiv lives in Mogtu. Have a lovely day.",
    "Kuti Supiv lives in Mogtu.",
)
EXAMPLES = [
    {"messages": [{"role": "user", "content": QUESTION}], "completion": answer}
    for answer in (POLITE, PLAIN) * 4
]
FIT: dict[str, Any] = {"formula": "base + a*(polite - rude)", "items": EXAMPLES, "held_out": 0}
NAME = "manners"
URL = f"/v1/compositions/{NAME}"


@pytest.fixture(autouse=True)
def _clean(server: LiveServer) -> Iterator[None]:
    yield
    server.http.delete(URL)


def fit(server: LiveServer, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return server.http.post("/v1/compose/fit", json=FIT | body, headers=headers)


def test_a_fit_is_stored_under_its_name(server: LiveServer) -> None:
    response = fit(server, name=NAME)
    answer = response.json()
    assert answer["converged"], answer
    stored = server.http.get(URL).json()
    assert answer["stored"] == stored
    assert stored["composition"] == answer["formula"]
    assert response.headers["x-composer-store"] == str(stored["sequence"])
    assert answer["request"] == {"model": NAME}
    asked = server.chat(NAME, QUESTION).json()
    assert asked["composition"]["plan"]["formula"] == answer["formula"]

    mixture = {"formula": None, "experts": ["polite", "chat"], "name": NAME}
    again = fit(server, {"If-Match": str(stored["version"])}, **mixture)
    assert again.json()["stored"]["version"] == stored["version"] + 1
    assert again.json()["stored"]["composition"]["router"]["weights"] == {
        model: weight["value"] for model, weight in again.json()["weights"].items()
    }
    assert server.chat(NAME, QUESTION).json()["composition"]["plan"]["mixture"]


@pytest.mark.parametrize(
    ("name", "headers", "status", "code"),
    [
        ("base", {}, 409, "name_taken"),
        ("polite", {}, 409, "name_taken"),
        ("auto", {}, 409, "name_taken"),
        ("zoo", {}, 409, "name_taken"),
        ("1st", {}, 400, "composition_schema"),
        ("", {}, 400, "invalid_request"),
        (NAME, {"If-Match": "7"}, 409, "version_conflict"),
        (NAME, {"If-Match": "x"}, 400, "invalid_request"),
    ],
)
def test_a_name_is_refused_before_any_text_is_read(
    server: LiveServer, name: str, headers: dict[str, str], status: int, code: str
) -> None:
    before = figure(server, "composer_scored_texts_total")
    assert error_of(fit(server, headers, name=name), status)["code"] == code
    assert figure(server, "composer_scored_texts_total") == before


def test_a_last_point_is_not_stored(server: LiveServer) -> None:
    answer = fit(server, name=NAME, max_passes=1).json()
    assert not answer["converged"]
    assert answer["stored"] is None
    assert any(f"nothing is stored as '{NAME}'" in warning for warning in answer["warnings"])
    assert answer["request"] == {"model": answer["formula"]}
    assert server.http.get(URL).status_code == 404


def test_a_name_that_is_taken_meanwhile_does_not_lose_the_fit(server: LiveServer) -> None:
    before = figure(server, "composer_scored_texts_total", kind="fit")
    with ThreadPoolExecutor(1) as pool:
        items = EXAMPLES * 8
        fitting = pool.submit(fit, server, {"If-None-Match": "*"}, name=NAME, items=items)
        while figure(server, "composer_scored_texts_total", kind="fit") == before:
            assert not fitting.done(), fitting.result().text
        assert server.http.put(URL, json="base").status_code == 201
    answer = fitting.result().json()
    assert answer["converged"], answer
    assert answer["stored"] is None
    assert any("nothing is stored" in w and "version" in w for w in answer["warnings"])
    assert server.http.get(URL).json()["composition"] == "base"
