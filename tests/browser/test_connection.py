"""What the playground does when the connection breaks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.playground import SECONDS, address, answered, run, tokens
from tests.browser.relay import Relay
from tests.browser.watched_pages import PageErrors, PageOpener
from tests.support.live_server import LiveServer

ENDLESS = "polite - 3*chat"


@pytest.fixture
def relay(server: LiveServer) -> Iterator[Relay]:
    relay = Relay(server.url)
    yield relay
    relay.close()


@pytest.fixture
def page(browser: Browser, relay: Relay, page_errors: PageErrors) -> Iterator[Page]:
    opener = PageOpener(browser, relay.url, page_errors)
    yield opener(address())
    opener.close()
    for text in ("Failed to load resource", "net::"):
        page_errors.allow(text)  # which is what these tests are about


def test_a_server_that_comes_back(page: Page, relay: Relay) -> None:
    first = tokens(run(page))
    relay.is_open = False
    relay.cut()
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("The server does not answer. What you see here stays")).to_be_visible()
    expect(page.locator("#prompt")).not_to_be_empty()
    relay.is_open = True
    expect(page.get_by_text("What you see here stays")).to_be_hidden(timeout=20 * SECONDS)
    assert tokens(run(page)) == first


def test_a_stream_that_is_cut_goes_on_where_it_was(
    page: Page, relay: Relay, server: LiveServer
) -> None:
    page.locator("#formula").fill(ENDLESS)
    page.get_by_text("System prompt and sampling").click()
    page.get_by_label("tokens", exact=True).fill("400")
    page.get_by_label("base and members beside it").uncheck()
    relay.answer_limit = 40_000  # bytes, of some tens of tokens
    answer = run(page)
    expect(answer.get_by_role("alert")).to_contain_text("The connection broke off")
    relay.answer_limit = None
    kept = tokens(answer)
    assert 3 < len(kept) < 300
    page.get_by_label("tokens", exact=True).fill("5")
    answer.get_by_role("button", name="Continue after").click()
    answered(page)
    expect(answer.get_by_role("alert")).to_have_count(0)
    assert tokens(answer)[: len(kept)] == kept
    assert len(tokens(answer)) == min(300, len(kept) + 5)


def test_a_fork_leaves_the_first_answer_running_until_stopped(page: Page, relay: Relay) -> None:
    page.locator("#formula").fill(ENDLESS)
    page.get_by_text("System prompt and sampling").click()
    page.get_by_label("tokens", exact=True).fill("400")
    page.get_by_label("base and members beside it").uncheck()
    relay.stalls, relay.answer_limit = True, 40_000
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_label("The answer, token by token").locator("button").nth(2).click()
    page.locator(".alternatives button:enabled").first.click()
    answer = page.get_by_label("The composition's answer")
    branches = page.get_by_label("Branches").get_by_role("button")
    expect(branches).to_have_count(2)
    for branch in branches.all():
        branch.click()
        expect(answer).to_have_attribute("aria-busy", "true")
    page.get_by_role("button", name="Stop").click()
    for branch in branches.all():
        branch.click()
        expect(answer).to_contain_text("stopped by you")
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()


def test_a_page_in_place_of_an_answer_is_shown_as_text(
    open_page: PageOpener, server: LiveServer
) -> None:
    page = open_page.blank()
    page.route("**/v1/models", lambda route: route.fulfill(body="<html>Sign in</html>"))
    page.goto(server.url + address())
    expect(page.locator(".banner")).to_have_text("status 200: <html>Sign in</html>")
