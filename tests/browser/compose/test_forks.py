"""Answers that go on from another token than the one that was chosen."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Route, expect

from tests.browser.playground import (
    FORMULA,
    QUESTION,
    address,
    answered,
    explained,
    percent,
    run,
    tokens,
)
from tests.browser.watched_pages import PageOpener
from tests.support.live_server import LiveServer


def test_continue_from_another_token(open_page: PageOpener, server: LiveServer) -> None:
    page = open_page(address())
    answer = run(page)
    first = tokens(answer)
    token = explained(server)[1]
    page.locator("#prompt").fill("Reverse k a t o")  # the next question, which is not that of
    page.locator("#formula").fill("polite")  # the answer that goes on
    answer.get_by_label("The answer, token by token").locator("button").nth(1).click()
    other = next(one for one in token["best"] if one["id"] != token["id"])
    page.get_by_label("Most likely for Composition").get_by_role("button").filter(
        has_text=percent(other["logprob"])
    ).first.click()
    answered(page)
    prefix = first[0] + other["token"]
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": prefix},
    ]
    goes_on = {"continue_final_message": True, "add_generation_prompt": False}
    body = {"model": FORMULA, "messages": messages, "temperature": 0, "max_tokens": 12, **goes_on}
    choice = server.http.post("/v1/chat/completions", json=body).json()["choices"][0]
    shown = "".join(tokens(answer))
    assert shown.removesuffix("<|end|>") == prefix + choice["message"]["content"]
    branches = page.get_by_label("Branches").get_by_role("button")
    branches.first.click()
    assert tokens(answer) == first


def test_a_fork_behind_bytes_keeps_their_characters(open_page: PageOpener) -> None:
    page = open_page(address(n="8"))
    sent: list[dict[str, Any]] = []

    def in_japanese(route: Route) -> None:
        body = json.loads(route.request.post_data or "")
        if body.get("explain"):
            sent.append(body)
            if len(sent) == 1:
                body["structured_outputs"] = {"regex": "日本 [a-z ]{9}"}
        route.continue_(post_data=json.dumps(body))

    page.route("**/v1/chat/completions", in_japanese)
    answer = run(page)
    assert tokens(answer)[0] == "\ufffd"  # a token is a part of a character
    answer.get_by_label("The answer, token by token").locator("button").nth(-1).click()
    page.locator(".alternatives button:enabled").last.click()
    expect(page.get_by_label("Branches")).to_be_visible()
    answered(page)
    assert sent[1]["messages"][-1]["content"].startswith("日本 ")
