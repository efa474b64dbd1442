"""What scoring requests have in common with others: figures, log, headers, policies, leases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.server.administration import Admin
from tests.server.compose.test_bad_requests import error_of
from tests.server.http.test_request_log import figure, line_of
from tests.support.live_server import LiveServer

SCORE, FIT = "/v1/compose/score", "/v1/compose/fit"
SWEEP = "/v1/compose/sweep"
ITEMS = [
    {"prompt": "Once upon a", "completion": " time there was Ann."},
    {"prompt": [5, 6, 7], "completion": [40, 41, 42]},
]
FORMULA = "base + 0.5*polite - 0.5*rude"


def ok(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def log_probs(scored: dict[str, Any], place: int) -> list[list[float]]:
    return [item["compositions"][place]["token_logprobs"] for item in scored["data"]]


# ---- figures, log


def test_the_figures_and_the_line_of_a_score(server: LiveServer) -> None:
    names = ("scoring_requests_total", "scoring_seconds_count", "scored_texts_total")

    def figures() -> list[float]:
        return [
            figure(server, f"composer_{name}", kind="score")
            for name in (*names, "scored_tokens_total")
        ]

    before = figures()
    body = {"model": FORMULA, "items": ITEMS}
    answer = ok(server.http.post(SCORE, json=body, headers={"X-Request-Id": "score-1"}))
    tokens, prompts = answer["usage"]["scored_tokens"], answer["usage"]["prompt_tokens"]
    assert [now - then for now, then in zip(figures(), before, strict=True)] == [1, 1, 2, tokens]
    line = line_of(server, "score-1")
    assert (line["composition"], line["recipe"], line["rows"]) == ("formula", "sum", "3")
    assert line["plan"] == f'"{FORMULA}"'
    assert (line["texts"], line["scored_tokens"]) == ("2", str(tokens))
    assert (line["prompt_tokens"], line["outcome"]) == (str(prompts), "ok")


def test_the_figures_and_the_line_of_a_fit(server: LiveServer) -> None:
    names = {"kind": "fit", "outcome": "ok"}
    before = figure(server, "composer_scoring_requests_total", **names)
    texts = figure(server, "composer_scored_texts_total", kind="fit")
    body = {"formula": "base + secret_name*polite", "items": ITEMS, "held_out": 0}
    answer = ok(server.http.post(FIT, json=body, headers={"X-Request-Id": "fit-1"}))
    assert figure(server, "composer_scoring_requests_total", **names) == before + 1
    read = 2 * answer["passes"] + 2  # and once to judge
    assert figure(server, "composer_scored_texts_total", kind="fit") == texts + read
    line = line_of(server, "fit-1")
    assert (line["composition"], line["recipe"], line["texts"]) == ("formula", "sum", str(read))
    assert "secret_name" not in server.log.read_text()


def test_errors_and_several_compositions_are_logged(server: LiveServer) -> None:
    body = {"compositions": [FORMULA, "polite"], "items": ITEMS}
    ok(server.http.post(SCORE, json=body, headers={"X-Request-Id": "several-1"}))
    line = line_of(server, "several-1")
    assert (line["composition"], line["recipe"], line["plan"]) == ("compositions", "several", "-")
    server.http.post(SCORE, json={"items": []}, headers={"X-Request-Id": "bad-1"})
    assert line_of(server, "bad-1")["outcome"] == "client_error"


# ---- headers and digests


@pytest.mark.parametrize("model", ["base", "zoo", "polite", None])
def test_a_lost_composition_is_not_scored(server: LiveServer, model: str | None) -> None:
    expected = {"X-Composer-Expect": "composition"}
    lost = server.http.post(SCORE, json={"model": model, "items": ITEMS}, headers=expected)
    assert error_of(lost, 400)["code"] == "composition_lost"


def test_an_expected_composition_is_scored(server: LiveServer) -> None:
    expected = {"X-Composer-Expect": "composition"}
    for asked in ({"model": FORMULA}, {"composition": "polite"}, {"compositions": ["polite"]}):
        ok(server.http.post(SCORE, json=asked | {"items": ITEMS}, headers=expected))
    fit = {"formula": "base + a*polite", "items": ITEMS}
    ok(server.http.post(FIT, json=fit, headers=expected))
    for path, body in ((SCORE, {"model": FORMULA, "items": ITEMS}), (FIT, fit)):
        other = server.http.post(path, json=body, headers={"X-Composer-Expect": "miracles"})
        assert "'miracles'" in error_of(other, 400)["message"]


def test_the_adapters_and_their_affinity_are_those_of_an_answer(server: LiveServer) -> None:
    answer = server.chat(FORMULA, max_tokens=1)
    affinity, adapters = answer.headers["x-composer-affinity"], answer.json()["adapters"]
    fit = {"formula": "base + a*(polite - rude)", "items": ITEMS}
    several = {"compositions": ["polite", "rude"], "items": ITEMS}
    for path, body in (
        (SCORE, {"model": FORMULA, "items": ITEMS}),
        (SCORE, several),
        (FIT, fit),
    ):
        response = server.http.post(path, json=body)
        assert ok(response)["adapters"] == adapters
        assert response.headers["x-composer-affinity"] == affinity
    base = server.http.post(SCORE, json={"model": "base", "items": ITEMS})
    assert "adapters" not in ok(base)
    assert "x-composer-affinity" not in base.headers


def test_all_texts_of_a_request_get_one_generation(admin: Admin) -> None:
    """A fit reads its texts many times; another adapter in between would mix two models."""
    digest = admin.put("swapped", "polite").json()["digest"]
    body = {"model": "base + swapped", "items": ITEMS[:1] * 300}
    before = figure(admin.server, "composer_scored_texts_total")
    with ThreadPoolExecutor(1) as pool:
        scoring = pool.submit(admin.http.post, SCORE, json=body)
        while figure(admin.server, "composer_scored_texts_total") == before:
            assert not scoring.done(), scoring.result().text
        assert admin.put("swapped", "rude").json()["digest"] != digest
        assert not scoring.done()
        other = ok(admin.http.post(SCORE, json=body | {"items": ITEMS[:1]}))
    answer = ok(scoring.result())
    assert answer["adapters"] == {"swapped": digest} != other["adapters"]
    scores = [item["logprob"] for item in answer["data"]]
    assert scores == pytest.approx([scores[0]] * 300, abs=1e-3)
    assert abs(other["data"][0]["logprob"] - scores[0]) > 0.01
    assert figure(admin.server, "composer_leases") == 0


def test_all_points_of_a_sweep_get_one_generation(admin: Admin) -> None:
    digest = admin.put("swapped", "polite").json()["digest"]
    values = {"a": [0.5 + k / 64 for k in range(64)]}
    messages = [{"role": "user", "content": "Where does Kuti Supiv live?"}]
    body: dict[str, Any] = {"formula": "chat + a*swapped", "values": values}
    body |= {"messages": messages, "max_tokens": 60}
    before = ok(admin.http.post(SWEEP, json=body))
    generated = admin.server.metric("vllm:generation_tokens_total")
    with ThreadPoolExecutor(1) as pool:
        sweeping = pool.submit(admin.http.post, SWEEP, json=body)
        while admin.server.metric("vllm:generation_tokens_total") == generated:
            assert not sweeping.done(), sweeping.result().text
        assert admin.put("swapped", "rude").json()["digest"] != digest
        assert not sweeping.done()
    during, after = ok(sweeping.result()), ok(admin.http.post(SWEEP, json=body))
    assert before["adapters"] == during["adapters"] != after["adapters"]
    assert during["adapters"]["swapped"] == digest
    texts = [[point["text"] for point in answer["data"]] for answer in (before, during, after)]
    assert texts[0] == texts[1] != texts[2]
    assert figure(admin.server, "composer_leases") == 0


def test_a_fit_says_if_its_weights_are_beyond_what_requests_may_have(admin: Admin) -> None:
    admin.put("wide", "polite")
    wanted = [{"prompt": "Hi", "completion": " of the of the of the"}] * 2
    body = {"formula": "base + 400*a*wide", "items": wanted, "held_out": 0, "ridge": 0}
    answer = ok(admin.http.post(FIT, json=body | {"start": {"a": 1}, "max_passes": 1}))
    [warning] = [text for text in answer["warnings"] if "refuses the formula" in text]
    assert "'wide' is " in warning
    error_of(admin.http.post("/v1/completions", json={**answer["request"], "prompt": "Hi"}), 400)


# ---- several compositions, some of which cannot share a pass


def test_an_adapter_that_stands_alone_keeps_to_itself(admin: Admin) -> None:
    admin.put("lonely-one", "polite", policy={"compositions": False})
    member = {"model": "lonely-one", "weight": 1}
    grid = ["lonely-one", "base + chat", "chat", {"members": [member]}]
    several = ok(admin.http.post(SCORE, json={"compositions": grid, "items": ITEMS}))
    for place, model in ((0, "lonely-one"), (1, "base + chat"), (2, "chat"), (3, "lonely-one")):
        alone = ok(admin.http.post(SCORE, json={"model": model, "items": ITEMS}))["data"]
        for ours, item in zip(log_probs(several, place), alone, strict=True):
            assert ours == pytest.approx(item["token_logprobs"], abs=1e-3)
    mixed = {"compositions": ["base + 'lonely-one'", "base"], "items": ITEMS}
    refused = error_of(admin.http.post(SCORE, json=mixed), 403)
    assert "may not be used in compositions" in refused["message"]


def test_bounds_keep_a_weight_positive_that_may_not_be_negative(admin: Admin) -> None:
    admin.put("kept", "polite", policy={"negative": False})
    body = {"formula": "base + a*kept", "items": ITEMS, "held_out": 0}
    error_of(admin.http.post(FIT, json=body), 403)
    answer = ok(admin.http.post(FIT, json=body | {"bounds": {"a": [0, 2]}}))
    assert 0 <= answer["weights"]["a"]["value"] <= 2


def test_members_of_all_passes_are_listed(server: LiveServer) -> None:
    mixture = {"recipe": "mixture", "experts": ["rude", "chat"]}
    body = {"compositions": ["base + polite", "chat", mixture, "zoo"], "members": True}
    data = ok(server.http.post(SCORE, json=body | {"items": ITEMS}))["data"]
    for item in data:
        assert sorted(m["model"] for m in item["members"]) == ["base", "chat", "polite", "rude"]
        alone = {m["model"]: m["token_logprobs"] for m in item["members"]}
        for place, model in ((1, "chat"), (3, "base")):
            assert item["compositions"][place]["token_logprobs"] == pytest.approx(
                alone[model], abs=1e-3
            )


def test_compositions_that_fit_alone_only(server: LiveServer) -> None:
    """Together they have three adapters, and the engine holds two."""
    grid = ["base + polite", "base + rude", "base + chat"]
    answer = ok(server.http.post(SCORE, json={"compositions": grid, "items": ITEMS}))
    for place, formula in enumerate(grid):
        alone = ok(server.http.post(SCORE, json={"model": formula, "items": ITEMS}))["data"]
        for ours, item in zip(log_probs(answer, place), alone, strict=True):
            assert ours == pytest.approx(item["token_logprobs"], abs=1e-3)


def test_an_error_names_its_composition(server: LiveServer) -> None:
    wrong: Any
    for wrong in ("nobody", "base +", {"members": []}, 5, None, "base + nobody"):
        body = {"compositions": ["base", wrong], "items": ITEMS}
        response = server.http.post(SCORE, json=body)
        assert response.status_code in (400, 404), response.text
        assert response.json()["error"]["param"].startswith("compositions[1]"), response.text
