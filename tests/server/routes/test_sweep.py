"""One prompt answered by a grid of weights, over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.server.compose.test_bad_requests import error_of
from tests.server.compose.test_streams import wait_until_idle
from tests.server.routes.test_scoring import ok
from tests.support.live_server import LiveServer

QUESTION = "Where does Kuti Supiv live?"
MESSAGES = [{"role": "user", "content": QUESTION}]
FORMULA = "base + a*(polite - rude)"
ANSWER = "Certainly. Kuti Supiv lives in Mogtu."

SAMPLING: list[dict[str, Any]] = [
    {},
    {"temperature": 0.9, "seed": 7},
    {"temperature": 1.2, "seed": 3, "top_p": 0.9, "max_tokens": 9},
    {"stop": ["ovely", " l"]},
]


def plain(server: LiveServer, asked: dict[str, Any], formula: str) -> dict[str, Any]:
    path = "/v1/chat/completions" if "messages" in asked else "/v1/completions"
    body = {"temperature": 0, "max_tokens": 24, **asked, "model": formula}
    response = server.http.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    choice = answer["choices"][0]
    text = choice["text"] if "prompt" in asked else choice["message"]["content"]
    return {"text": text, "finish_reason": choice["finish_reason"], "usage": answer["usage"]}


@pytest.mark.parametrize("sampling", SAMPLING, ids=lambda sampling: ",".join(sampling) or "greedy")
@pytest.mark.parametrize("beginning", [{"messages": MESSAGES}, {"prompt": "Once upon a"}], ids=str)
def test_every_point_is_answered_as_a_plain_request(
    server: LiveServer, beginning: dict[str, Any], sampling: dict[str, Any]
) -> None:
    asked = {**beginning, "max_tokens": 24, **sampling}
    answer = ok(server, "sweep", formula=FORMULA, values={"a": [0, 0.3, 1, -1.5]}, **asked)
    formulas = [
        *("base", "base + 0.3*polite - 0.3*rude", "base + polite - rude"),
        "base - 1.5*polite + 1.5*rude",
    ]
    assert answer["free"] == ["a"]
    assert [point["values"]["a"] for point in answer["data"]] == [0, 0.3, 1, -1.5]
    assert [point["formula"] for point in answer["data"]] == formulas
    for point in answer["data"]:
        alone = plain(server, asked, point["formula"])
        assert point["text"] == alone["text"]
        assert point["finish_reason"] == alone["finish_reason"]
        assert {name: alone["usage"][name] for name in point["usage"]} == point["usage"]
    assert len({point["text"] for point in answer["data"]}) > 1
    count = sum(point["usage"]["completion_tokens"] for point in answer["data"])
    assert answer["usage"]["completion_tokens"] == count


def test_the_grid_is_a_product_or_points(server: LiveServer) -> None:
    formula = "base + a*polite + b*rude"
    grid = ok(
        server,
        "sweep",
        **{"formula": formula, "values": {"b": [0, 1], "a": [1, 2]}, "prompt": "Once"},
        max_tokens=2,
    )
    points = [{"b": 0, "a": 1}, {"b": 0, "a": 2}, {"b": 1, "a": 1}, {"b": 1, "a": 2}]
    assert [point["values"] for point in grid["data"]] == points
    again = ok(server, "sweep", formula=formula, points=points, prompt="Once", max_tokens=2)
    assert again["data"] == grid["data"]


@pytest.mark.parametrize("reference", [ANSWER, [40, 41, 42]], ids=["text", "tokens"])
def test_a_reference_is_scored_at_every_point_in_one_pass(
    server: LiveServer, reference: Any
) -> None:
    before = server.metric("vllm:prompt_tokens_total")
    answer = ok(
        server,
        "sweep",
        **{"formula": FORMULA, "values": {"a": [0, 0.5, 1]}, "messages": MESSAGES},
        reference=reference,
        max_tokens=1,
    )
    read = server.metric("vllm:prompt_tokens_total") - before
    item = {"messages": MESSAGES, "completion": reference}
    tokens = answer["reference"]["token_ids"]
    prompt_tokens = answer["data"][0]["usage"]["prompt_tokens"]
    assert read == 4 * prompt_tokens + len(tokens), "three answers and one pass"
    for point in answer["data"]:
        scored = ok(server, "score", model=point["formula"], items=[item])["data"][0]
        assert tokens == scored["token_ids"]
        assert answer["reference"]["tokens"] == scored["tokens"]
        logprobs = point["reference"]["token_logprobs"]
        assert logprobs == pytest.approx(scored["token_logprobs"], abs=1e-4)
        assert point["reference"]["logprob"] == pytest.approx(sum(logprobs))


GRID: dict[str, Any] = {"formula": FORMULA, "values": {"a": [0, 1]}, "prompt": "Once"}
SECOND = "base + a*polite + b*chat"


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in GRID.items() if name not in names}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (GRID | {"values": {"a": [0] * 65}}, 400, ["65 points", "at most 64", "fewer"]),
        (
            GRID | {"formula": SECOND, "values": {"a": [0] * 9, "b": [1] * 9}},
            400,
            ["9 x 9 = 81 points", "at most 64"],
        ),
        (without("values") | {"points": [{"a": 0}] * 65}, 400, ["points", "64"]),
        (GRID | {"values": {}}, 400, ["values"]),
        (GRID | {"values": {"a": []}}, 400, ["values.a"]),
        (without("values") | {"points": []}, 400, ["points"]),
        (without("values"), 400, ["'values' or 'points'"]),
        (GRID | {"points": [{"a": 1}]}, 400, ["'values' or 'points'"]),
        (GRID | {"formula": "base + polite"}, 400, ["no free name", "a*polite"]),
        (GRID | {"formula": "base + a*"}, 400, ["position"]),
        (GRID | {"formula": "base + a*a*polite"}, 400, ["free names"]),
        (GRID | {"values": {"a": [1], "polite": [1]}}, 400, ["'polite' is a model", "a"]),
        (GRID | {"values": {"a": [1], "c": [1]}}, 400, ["'c' is not a free name", "a"]),
        (GRID | {"formula": SECOND}, 400, ["'b'", "no value"]),
        (GRID | {"formula": "base + a*polit"}, 400, ["'polit' is not a model"]),
        (GRID | {"values": {"a": [0, 1e6]}}, 400, ["at a = 1000000", "between -100 and 100"]),
        (GRID | {"formula": "a*polite"}, 400, ["at a = 0", "nothing is left"]),
        (GRID | {"values": {"a": ["x"]}}, 400, ["values.a"]),
        (without("prompt"), 400, ["'prompt' or 'messages'"]),
        (GRID | {"messages": MESSAGES}, 400, ["'prompt' or 'messages'"]),
        (without("prompt") | {"messages": [{"content": "Hi"}]}, 400, ["role"]),
        (GRID | {"prompt": "a " * 5000}, 400, ["context"]),
        (GRID | {"prompt": "a", "reference": "a " * 5000}, 400, ["context"]),
        (GRID | {"reference": ""}, 400, ["reference"]),
        (GRID | {"reference": [999999]}, 400, ["999999"]),
        (GRID | {"max_tokens": 5000}, 400, ["5000"]),
        (GRID | {"max_tokens": 0}, 400, ["max_tokens"]),
        (GRID | {"temperature": -1}, 400, ["temperature"]),
        (GRID | {"top_p": 0}, 400, ["top_p"]),
        (GRID | {"stop": ["x" * 2000]}, 400, ["stop"]),
        (GRID | {"modle": "base"}, 400, ["modle"]),
    ],
)
def test_bad_requests(
    server: LiveServer, body: dict[str, Any], status: int, words: list[str]
) -> None:
    response = server.http.post("/v1/compose/sweep", json=body)
    error = error_of(response, status)
    for word in words:
        assert word in error["message"] + str(error["param"]), error
    assert isinstance(error["code"], str)
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_a_client_that_leaves_stops_its_points(server: LiveServer) -> None:
    body = {"formula": FORMULA, "values": {"a": [n / 64 for n in range(64)]}, "prompt": "Once"}
    with pytest.raises(httpx.ReadTimeout):
        server.http.post(
            "/v1/compose/sweep", json=body | {"max_tokens": 500, "temperature": 1}, timeout=0.3
        )
    wait_until_idle(server)


def test_a_point_is_counted_and_logged_as_a_request(server: LiveServer) -> None:
    headers = {"x-request-id": "swept"}
    counted = {"composition": "composition", "outcome": "ok", "recipe": "sum"}
    name = "composer_requests_total{" + ",".join(f'{k}="{v}"' for k, v in counted.items()) + "}"

    def count() -> float:
        lines = server.http.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = count()
    body = GRID | {"max_tokens": 2}
    answer = server.http.post("/v1/compose/sweep", json=body, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "swept"
    assert count() - before == 2
    assert 'plan="base + polite - rude"' in server.log_line("swept-1")
