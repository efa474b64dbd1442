"""Ask a composition: its answer, its members' beside it, and who moved which token."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.browser.playground import (
    REFUSED,
    SECONDS,
    address,
    answered,
    explained,
    force,
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


def test_a_member_with_its_own_prompt_is_told_from_the_others(open_page: PageOpener) -> None:
    page = open_page(address(f='{"recipe": "classifier_free_guidance"}'))
    answer = run(page)
    columns = page.get_by_label("Alone").get_by_role("heading")
    expect(columns).to_have_text(["base"])  # no request has only a prompt that it adds
    labels = answer.get_by_label("colour by").locator("option").all_inner_texts()
    assert labels[:2] == ["contribution of base", "contribution of base, its own prompt"]


def test_the_base_is_asked_before_the_models_are_known(
    open_page: PageOpener, server: LiveServer
) -> None:
    page = open_page.blank()
    held: list[Route] = []
    page.route("**/v1/models", lambda route: held.append(route))
    page.goto(server.url + address(f="chat + 0.5*polite"))
    run(page)
    columns = page.get_by_label("Alone").get_by_role("heading")
    expect(columns).to_have_text(["base", "chat", "polite"])
    assert held, "the models came before"
    held[0].continue_()


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


def test_colours_are_at_first_those_of_a_member_that_is_added(open_page: PageOpener) -> None:
    page = open_page(address(f="base + 0.5*(rude - polite)", n="4"))
    chosen = run(page).get_by_label("colour by").locator("option:checked")
    expect(chosen).to_have_text("contribution of rude")


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


def test_another_question_waits_to_be_asked(open_page: PageOpener, server: LiveServer) -> None:
    page = open_page(address())
    run(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.post_data or ""))
    page.get_by_label("run again as I turn a weight").check()
    page.clock.install()
    with page.expect_response("**/tokenize"):
        page.locator("#prompt").fill("Who is Kuti Supiv?")
        page.clock.run_for(SECONDS)
    page.clock.run_for(SECONDS)
    weight = page.get_by_label("Weight of (polite - chat)")
    weight.fill("2")
    weight.press("Tab")
    page.clock.resume()
    expect(page.get_by_label("The composition's answer")).to_contain_text("2*polite")
    answered(page)
    composed = [body for body in asked if '"explain":true' in body]
    assert len(composed) == 1, composed
    assert "chat + 2*(polite - chat)" in composed[0]


def test_of_many_members_the_first_are_asked_alone(
    browser: Browser, server: LiveServer, page_errors: PageErrors
) -> None:
    def of_one(route: Route) -> None:
        script = route.fetch()
        assert "MOST_BESIDE = 8" in script.text()
        body = script.text().replace("MOST_BESIDE = 8", "MOST_BESIDE = 1")
        route.fulfill(response=script, body=body)

    context = browser.new_context()
    context.route("**/views/compose.js", of_one)
    page_errors.watch(context, server.url)
    page = context.new_page()
    page.goto(server.url + address(n="4"))
    run(page)
    columns = page.get_by_label("Alone").get_by_role("heading")
    expect(columns).to_have_text(["base", "chat"])
    expect(page.get_by_text("The first 1 of 2 members were asked alone.")).to_be_visible()
    context.close()


@pytest.mark.parametrize(
    ("fields", "message"), [({"n": "0"}, "max_tokens"), ({"t": "-1"}, "temperature")]
)
def test_the_servers_refusal_is_shown(
    open_page: PageOpener, page_errors: PageErrors, fields: dict[str, str], message: str
) -> None:
    page = open_page(address(**fields))
    expect(run(page).get_by_role("alert").first).to_contain_text(message)
    page_errors.expect(REFUSED, page)


def test_an_answer_without_details_streams_as_others_do(
    open_page: PageOpener, page_errors: PageErrors
) -> None:
    page = open_page(address(f="base", n="200"))
    force(page, "[a-z]{200}")  # so long that a frame falls into it
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


def test_a_system_prompt_that_is_emptied_stays_open(open_page: PageOpener) -> None:
    page = open_page(address(s="Be brief."))
    page.get_by_label("System prompt", exact=True).fill("")
    page.get_by_label("System prompt", exact=True).press_sequentially("Sing.")
    page.wait_for_url("**/*Sing*")
