"""The playground's first view: ask, see who moved which token, turn a weight, fork."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.playground import (
    FORMULA,
    QUESTION,
    REFUSED,
    SECONDS,
    address,
    answered,
    explained,
    percent,
    run,
    says,
    tokens,
)
from tests.browser.watched_pages import PageErrors, PageOpener
from tests.support.live_server import LiveServer


def test_the_answer_is_the_servers_with_its_members_beside(
    open_page: PageOpener, server: LiveServer
) -> None:
    page = open_page(address())
    answer = run(page)
    assert tokens(answer) == [token["token"] for token in explained(server)]
    expect(answer).to_contain_text("0.5*chat + 0.5*polite")
    columns = page.get_by_label("Alone").get_by_role("article")
    shown = {
        column.get_by_role("heading").inner_text(): column.locator(".text").inner_text()
        for column in columns.all()
    }
    assert shown == {name: says(server, name).strip() for name in ("base", "chat", "polite")}


def test_a_token_tells_its_numbers(open_page: PageOpener, server: LiveServer) -> None:
    page = open_page(address())
    answer = run(page)
    wanted = explained(server)
    for position in (0, 2):
        token = wanted[position]
        answer.get_by_label("The answer, token by token").locator("button").nth(position).hover()
        details = page.get_by_label("One token")
        expect(details).to_contain_text(percent(token["logprob"]))
        for name, alone, part in zip(
            ("chat", "polite"), token["member_logprobs"], token["contributions"], strict=True
        ):
            row = details.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name))
            expect(row).to_contain_text(percent(alone))
            expect(row).to_contain_text(f"{abs(part):.3f}")
        for title, best in (("Composition", token["best"]), ("Base", token["base"]["best"])):
            others = details.get_by_label(f"Most likely for {title}").get_by_role("button")
            assert [text.split(" ")[-2] for text in others.all_inner_texts()] == [
                percent(one["logprob"]).split(" ")[0] for one in best
            ]


def test_colours_say_who_wanted_a_token_and_not_by_hue_alone(
    open_page: PageOpener, server: LiveServer
) -> None:
    page = open_page(address())
    answer = run(page)
    wanted = explained(server)
    choice = answer.get_by_label("colour by")
    buttons = answer.get_by_label("The answer, token by token").locator("button")
    for index, name in enumerate(("chat", "polite")):
        choice.select_option(label=f"contribution of {name}")
        for position, token in enumerate(wanted):
            value = token["contributions"][index]
            classes = buttons.nth(position).get_attribute("class") or ""
            assert ("less" in classes) == (value <= -0.1), (position, value)
            assert ("more" in classes) == (value >= 0.1), (position, value)
    choice.select_option(label="changed choice")
    for position, token in enumerate(wanted):
        style = buttons.nth(position).evaluate("e => getComputedStyle(e).borderBottomWidth")
        assert (style == "4px") == token["changed"]


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


def test_a_fork_leaves_the_first_answer_running_until_stopped(open_page: PageOpener) -> None:
    page = open_page(address(f="polite - 3*chat", n="400"))  # never ends by itself
    page.get_by_label("base and members beside it").uncheck()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_label("The answer, token by token").locator("button").nth(2).click()
    page.locator(".alternatives button:enabled").first.click()
    answer = page.get_by_label("The composition's answer")
    branches = page.get_by_label("Branches").get_by_role("button")
    for branch in branches.all():
        branch.click()
        expect(answer).to_have_attribute("aria-busy", "true")
    page.get_by_role("button", name="Stop").click()
    for branch in branches.all():
        branch.click()
        expect(answer).to_contain_text("stopped by you")
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()


def test_turning_a_weight_asks_again(open_page: PageOpener, server: LiveServer) -> None:
    page = open_page(address())
    run(page)
    page.get_by_label("run again as I turn a weight").check()
    page.get_by_label("Weight of (polite - chat)").fill("2")
    page.get_by_label("Weight of (polite - chat)").press("Tab")
    expect(page.locator("#formula")).to_have_value("chat + 2*(polite - chat)")
    expect(page.get_by_label("The composition's answer")).to_contain_text(
        "2*polite", timeout=20 * SECONDS
    )
    answer = answered(page)
    wanted = explained(server, model="chat + 2*(polite - chat)")
    assert tokens(answer) == [token["token"] for token in wanted]


def test_a_recipe_is_completed_and_its_numbers_turn(
    open_page: PageOpener, page_errors: PageErrors
) -> None:
    page = open_page(address(f=""))
    box = page.locator("#formula")
    box.fill("")
    box.press_sequentially("dex")
    page.get_by_role("option", name="dexperts").click()
    recipe = json.loads(box.input_value())
    assert recipe["recipe"] == "dexperts"
    assert recipe["alpha"] == 2
    page.get_by_label("Weight of alpha").fill("0.5")
    page.get_by_label("Weight of alpha").press("Tab")
    assert json.loads(box.input_value())["alpha"] == 0.5
    expect(run(page)).to_contain_text("0.5*")
    page_errors.allow(REFUSED)  # "dex" alone is no model


def test_a_name_is_completed_where_it_was_typed(
    open_page: PageOpener, page_errors: PageErrors
) -> None:
    page = open_page(address(f=""))
    box = page.locator("#formula")
    box.fill("")
    box.press_sequentially("chat + pol")
    expect(page.get_by_role("option", name="polite")).to_be_visible()
    box.press("Home")
    box.press("Enter")
    expect(box).to_have_value("chat + polite")
    page_errors.allow(REFUSED)


def test_every_recipe_is_completed_to_a_valid_one(
    open_page: PageOpener, server: LiveServer, page_errors: PageErrors
) -> None:
    page = open_page(address(f=""))
    box = page.locator("#formula")
    schemas = server.http.get("/openapi.json").json()["components"]["schemas"].values()
    recipes = [schema.get("properties", {}).get("recipe", {}).get("const") for schema in schemas]
    names = sorted(name for name in recipes if name)
    assert "emulated_fine_tuning" in names
    for name in names:
        box.fill(name[:-1])
        box.press_sequentially(name[-1])
        with page.expect_response(
            lambda response: (
                response.url.endswith("/tokenize")
                and "recipe" in (response.request.post_data or "")
            )
        ) as checked:
            page.get_by_role("option", name=name).click()
        assert checked.value.status == httpx.codes.OK, (name, checked.value.text())
    page_errors.allow(REFUSED)


def test_a_member_with_its_own_prompt_is_told_from_the_others(open_page: PageOpener) -> None:
    page = open_page(address(f='{"recipe": "classifier_free_guidance"}'))
    answer = run(page)
    columns = page.get_by_label("Alone").get_by_role("heading")
    assert columns.all_inner_texts() == ["base"]  # no request has only a prompt that it adds
    labels = answer.get_by_label("colour by").locator("option").all_inner_texts()
    assert labels[:2] == ["contribution of base", "contribution of base, its own prompt"]


def test_a_mistake_is_shown_at_its_place(open_page: PageOpener, page_errors: PageErrors) -> None:
    page = open_page(address())
    box, problem = page.locator("#formula"), page.locator("#formula-error")
    box.fill("chat + 2*polit - base")
    expect(problem.locator("mark")).to_have_text("polit")
    expect(problem).to_contain_text("did you mean 'polite'?")
    box.fill("chat + 2**polite")
    expect(problem.locator("mark")).to_have_text("*")
    assert problem.locator("pre").inner_text().index("*") == 8
    box.fill("chat")
    expect(problem).to_be_empty()
    page_errors.expect(REFUSED, page)


def test_every_beginning_of_a_formula_leaves_the_page_usable(
    open_page: PageOpener, page_errors: PageErrors
) -> None:
    page = open_page(address(f="chat"))
    box = page.locator("#formula")
    for text in (FORMULA, '{"recipe": "proxy_tuning", "expert": "polite", "alpha": 0.5}'):
        for end in range(1, len(text) + 1):
            box.fill(text[:end])
    answer = run(page)
    assert tokens(answer)
    page_errors.allow(REFUSED)


@pytest.mark.parametrize(
    ("fields", "message"), [({"n": "0"}, "max_tokens"), ({"t": "-1"}, "temperature")]
)
def test_the_servers_refusal_is_shown(
    open_page: PageOpener, page_errors: PageErrors, fields: dict[str, str], message: str
) -> None:
    page = open_page(address(**fields))
    expect(run(page).get_by_role("alert").first).to_contain_text(message)
    page_errors.expect(REFUSED, page)


def test_markup_and_control_characters_are_shown_and_not_executed(
    open_page: PageOpener, page_errors: PageErrors
) -> None:
    bad = "<img src=x onerror=alert(1)>\u0007\u001b[31m</textarea><script>alert(2)</script>"
    page = open_page(address(p=bad, f="base", mode="text"))
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog says {dialog.message}"))
    page.get_by_text("Copy as").click()
    copy = page.locator("#copy-text")
    expect(copy).to_contain_text("<img src=x onerror=alert(1)>")
    expect(run(page)).to_contain_text("No details: 'explain' compares members with the base")
    assert page.locator("img, script:not([src])").count() == 0
    page_errors.allow(REFUSED)  # the base alone cannot be explained


def test_an_answer_without_details_streams_as_others_do(
    open_page: PageOpener, page_errors: PageErrors
) -> None:
    page = open_page(address(f="base"))
    page.evaluate(
        "new MutationObserver(() => {"
        "  window.streamed ||= document.querySelector('.answer[aria-busy=true] .tail') !== null"
        "}).observe(document.body, {subtree: true, childList: true, characterData: true})"
    )
    run(page)
    assert page.evaluate("window.streamed")
    page_errors.allow(REFUSED)  # the base alone cannot be explained


def test_a_long_answer_has_details_for_its_first_tokens_only(open_page: PageOpener) -> None:
    page = open_page(address(f="polite - 3*chat", n="400"))  # never ends by itself
    answer = run(page)
    expect(answer.get_by_role("alert")).to_have_count(0)
    assert len(tokens(answer)) == 300
    expect(answer).to_contain_text("The first 300 tokens have details.")
    assert len(answer.locator(".tail").inner_text()) > 100
    page.get_by_label("Views").get_by_role("button", name="Sweep").click()
    expect(page.get_by_role("button", name="Sweep").last).to_be_enabled()


def test_state_is_in_the_fragment_and_nowhere_else(open_page: PageOpener) -> None:
    page = open_page("/")
    page.locator("#prompt").fill("a question of mine")
    page.locator("#key").evaluate("e => e.closest('details').open = true")
    page.locator("#key").fill("a key of mine")
    page.get_by_role("button", name="Use", exact=True).click()
    page.wait_for_url("**/*question*")
    assert "a question of mine" in unquote_plus(page.url)
    assert "a key of mine" not in unquote_plus(page.url)
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [
        0,
        0,
        "",
    ]
    page.reload()
    expect(page.locator("#prompt")).to_have_value("a question of mine")
    expect(page.get_by_text("API key set")).to_have_count(0)


def test_a_link_puts_nothing_into_a_shell(open_page: PageOpener) -> None:
    question = "it's\u001b[201~\nrm -rf ~ \\"
    fields = {"t": "0; echo no", "n": "1 & no", "seed": "$(no)", "view": "../x", "mode": "x"}
    page = open_page(address(p=question, **fields))
    expect(page.get_by_role("button", name="Compose")).to_have_attribute("aria-current", "page")
    expect(page.get_by_label("Question")).to_have_value(question)
    page.get_by_text("Copy as").click()
    text = copied(page, "composer")
    assert "\u001b" not in text
    script = f"composer() {{ shift; printf '%s|' \"$@\"; }}; {text}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    options = ["--model", FORMULA, "--temperature", "0", "--max-tokens", "64", ""]
    said = done.stdout.split("|")
    assert [said[0], *said[3:]] == [question, *options]


def test_a_system_prompt_that_is_emptied_stays_open(open_page: PageOpener) -> None:
    page = open_page(address(s="Be brief."))
    page.get_by_label("System prompt", exact=True).fill("")
    page.get_by_label("System prompt", exact=True).press_sequentially("Sing.")
    page.wait_for_url("**/*Sing*")


def copied(page: Page, client: str) -> str:
    group = page.get_by_role("group", name="Client")
    group.get_by_role("button", name=client, exact=True).click()
    return page.locator("#copy-text").inner_text()


def test_what_is_copied_gives_the_same_answer(
    open_page: PageOpener, server: LiveServer, tmp_path: Path
) -> None:
    page = open_page(address(s="You're a clerk.", seed="3"))
    shown = "".join(tokens(run(page))).removesuffix("<|end|>").strip()
    page.get_by_text("Copy as").click()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COMPOSER_BASE_URL": f"{server.url}/v1"}

    def output(command: list[str], text: str) -> str:
        done = subprocess.run(
            [*command, text], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    curl = json.loads(output(["bash", "-c"], copied(page, "curl")))
    assert curl["choices"][0]["message"]["content"] == shown
    assert output([sys.executable, "-c"], copied(page, "OpenAI client")) == shown
    assert output(["bash", "-c"], copied(page, "composer")) == shown
    stored = copied(page, "stored composition").replace("NAME", "copied")
    assert output(["bash", "-c"], stored).splitlines()[-1]
    answer = server.http.get("/v1/compositions/copied")
    assert answer.status_code == httpx.codes.OK
    assert answer.json()["composition"] == FORMULA
    server.http.delete("/v1/compositions/copied")
