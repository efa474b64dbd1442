"""Answers of lines, of parts of characters, and of compositions that change under them."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.playground import (
    FORMULA,
    REFUSED,
    SECONDS,
    address,
    answered,
    force,
    run,
    tokens,
)
from tests.browser.watched_pages import PageErrors, PageOpener
from tests.support.live_server import LiveServer

ROUTED = '{"recipe": "mixture", "experts": ["chat", "polite"], "router": {"kind": "confidence"}}'


def buttons(answer: Locator) -> Locator:
    return answer.get_by_label("The answer, token by token").locator("button")


def fork(page: Page, position: int) -> Locator:
    """Continue from the least likely of the alternatives to a token."""
    answer = page.get_by_label("The composition's answer")
    buttons(answer).nth(position).click()
    page.get_by_label("Most likely for Composition").locator("button:enabled").last.click()
    expect(page.get_by_label("Branches")).to_be_visible()
    return answered(page)


def test_the_lines_of_an_answer_are_lines(open_page: PageOpener) -> None:
    page = open_page(address())
    force(page, "a\n\n  b\n")
    answer = run(page)
    assert tokens(answer)[0] == "a"
    assert "".join(tokens(answer)).startswith("a↵↵")
    one, two = (buttons(answer).get_by_text(letter, exact=False).first for letter in ("a", "b"))
    above, below = one.bounding_box(), two.bounding_box()
    assert above is not None
    assert below is not None
    assert below["y"] > above["y"] + 1.5 * above["height"]
    assert below["x"] > above["x"]  # it is indented


def test_characters_of_several_tokens_can_be_read(open_page: PageOpener) -> None:
    text = "hi \N{SMILING FACE WITH SMILING EYES} <b>"
    page = open_page(address())
    force(page, text)
    answer = run(page)
    assert "\ufffd" in tokens(answer)
    expect(answer.locator(".text")).to_have_text(text)


def test_a_fork_of_the_first_token_keeps_its_colours(open_page: PageOpener) -> None:
    page = open_page(address(c="kl"))
    answer = run(page)
    labels = answer.get_by_label("colour by").locator("option").all_inner_texts()
    assert "contribution of polite" in labels
    fork(page, 0)
    assert answer.get_by_label("colour by").locator("option").all_inner_texts() == labels
    # Nobody has computed how far the base is from a token that somebody chose.
    classes = buttons(answer).first.get_attribute("class") or ""
    assert "forced" in classes
    assert "more" not in classes


def test_figures_stand_with_the_members_that_said_them(
    open_page: PageOpener, server: LiveServer
) -> None:
    server.http.put("/v1/compositions/changing", json=FORMULA).raise_for_status()
    page = open_page(address(f="changing"))
    run(page)
    server.http.put("/v1/compositions/changing", json="base + 2*rude").raise_for_status()
    answer = fork(page, 2)
    said = "The first tokens were computed by 0.5*chat + 0.5*polite."
    expect(answer).to_contain_text(said)
    details = page.get_by_label("One token")
    buttons(answer).first.hover()
    expect(details.get_by_role("rowheader")).to_have_count(0)
    buttons(answer).nth(4).hover()
    expect(details.get_by_role("rowheader")).to_have_text(["base", "rude"])
    page.get_by_label("Branches").get_by_role("button").first.click()
    buttons(answer).first.hover()
    expect(details.get_by_role("rowheader")).to_have_text(["chat", "polite"])
    server.http.delete("/v1/compositions/changing").raise_for_status()


def test_a_router_that_starts_anew_says_so(open_page: PageOpener) -> None:
    page = open_page(address(f=ROUTED, n="6"))
    answer = run(page)
    expect(answer).not_to_contain_text("the router starts anew")
    expect(fork(page, 1)).to_contain_text("the router starts anew")


@pytest.mark.parametrize(
    "formula", ["1*(" * 6000, "a+" * 6000, '{"a": [' + "1, " * 6000 + "]}"], ids=len
)
def test_a_link_with_thousands_of_weights(
    open_page: PageOpener, page_errors: PageErrors, formula: str
) -> None:
    page = open_page(address(f=formula, view="sweep"))
    page.set_viewport_size({"width": 390, "height": 844})
    expect(page.get_by_text("The first 12; the text has more.")).to_be_visible()
    assert page.locator("option").count() < 100
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#formula").fill("chat", timeout=5 * SECONDS)
    page_errors.allow(REFUSED)
