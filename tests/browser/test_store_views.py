"""The playground's views of what is stored: adapters, and compositions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.playground import REFUSED, SECONDS, address, answered, run, view
from tests.browser.relay import Relay
from tests.browser.watched_pages import PageErrors, PageOpener
from tests.server.administration import KEY, POLITE, RUDE, Admin
from tests.support.live_server import LiveServer

FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture
def open_admin(browser: Browser, admin: Admin, page_errors: PageErrors) -> Iterator[PageOpener]:
    """Opens pages of the server for administrators."""
    opener = PageOpener(browser, admin.server.url, page_errors)
    yield opener
    opener.close()


def adapters(open_admin: PageOpener, key: str = KEY) -> Page:
    page = open_admin("/#view=adapters")
    use_key(page, key)
    return page


def use_key(page: Page, key: str) -> None:
    page.locator("#key").evaluate("e => e.closest('details').open = true")
    page.locator("#key").fill(key)
    page.get_by_role("button", name="Use", exact=True).click()


def publish(page: Page, folder: Path, alias: str) -> None:
    page.get_by_label("choose the files").set_input_files([folder / name for name in FILES])
    page.get_by_label("alias").fill(alias)
    page.locator("form.drop button[type=submit]").click()


def publish_and_wait(page: Page, folder: Path, alias: str) -> None:
    publish(page, folder, alias)
    expect(page.get_by_text(f"{alias} is published.")).to_be_visible(timeout=30 * SECONDS)


def test_publish_replace_and_roll_back(
    open_admin: PageOpener, admin: Admin, root: Path, page_errors: PageErrors
) -> None:
    page = adapters(open_admin)
    publish_and_wait(page, root / "polite", "paged")
    assert admin.says("paged") == POLITE
    publish(page, root / "rude", "paged")
    card = page.get_by_label("Adapters", exact=True).get_by_role("article").filter(has_text="paged")
    expect(card).to_contain_text("version 2", timeout=30 * SECONDS)
    assert admin.says("paged") == RUDE
    card.get_by_text("History").click()
    card.get_by_role("button", name="Back to version 1").click()
    expect(card).to_contain_text("version 3", timeout=30 * SECONDS)
    assert admin.says("paged") == POLITE
    card.get_by_text("Policy").click()
    card.get_by_label("may have a negative weight").uncheck()
    card.get_by_role("button", name="Set").click()
    expect(page.get_by_text("The policy of paged is set.")).to_be_visible()
    assert admin.http.get("/v1/adapters/paged").json()["policy"]["negative"] is False
    page.on("dialog", lambda dialog: dialog.accept())
    card.get_by_role("button", name="Stop serving").click()
    expect(page.get_by_text("paged is no longer served.")).to_be_visible()
    page_errors.allow(REFUSED)  # the list before the key


def test_figures_stand_with_the_adapters_that_said_them(
    open_admin: PageOpener, admin: Admin, root: Path, page_errors: PageErrors
) -> None:
    page = adapters(open_admin)
    publish_and_wait(page, root / "polite", "tone")
    view(page, "Compose")
    page.locator("#formula").fill("base + 0.5*tone")
    page.locator("#prompt").fill("Where does Kuti Supiv live?")
    page.get_by_label("tokens", exact=True).evaluate("e => e.closest('details').open = true")
    page.get_by_label("tokens", exact=True).fill("6")
    answer = run(page)
    view(page, "Adapters")
    publish_and_wait(page, root / "rude", "tone")
    view(page, "Compose")
    answer.get_by_label("The answer, token by token").locator("button").nth(2).click()
    page.get_by_label("Most likely for Composition").locator("button:enabled").last.click()
    expect(page.get_by_label("Branches")).to_be_visible()
    said = "The first tokens were computed with adapters that have since been replaced."
    expect(answered(page)).to_contain_text(said)
    answer.get_by_label("The answer, token by token").locator("button").first.hover()
    expect(page.get_by_label("One token").get_by_role("rowheader")).to_have_count(0)
    admin.http.delete("/v1/adapters/tone").raise_for_status()
    page_errors.allow(REFUSED)  # the list before the key, and formulas half typed


def test_a_change_is_said_once_the_next_can_build_on_it(
    open_admin: PageOpener, admin: Admin, root: Path, page_errors: PageErrors
) -> None:
    page = adapters(open_admin)
    expect(page.get_by_label("Adapters", exact=True)).to_be_visible()
    held: list[Route] = []
    page.route("**/v1/adapters", lambda route: held.append(route))
    with page.expect_request("**/v1/adapters", timeout=30 * SECONDS):
        publish(page, root / "polite", "told")
    expect(page.locator("form.drop button[type=submit]")).to_be_disabled()
    assert page.get_by_text("told is published.").count() == 0
    assert len(held) == 1
    page.unroute("**/v1/adapters")  # which lets it go on
    expect(page.get_by_text("told is published.")).to_be_visible()
    publish_and_wait(page, root / "rude", "told")
    assert admin.says("told") == RUDE
    admin.http.delete("/v1/adapters/told").raise_for_status()
    page_errors.allow(REFUSED)  # the list before the key


def test_a_wrong_key_is_told_apart_from_none(
    open_admin: PageOpener, page_errors: PageErrors
) -> None:
    page = open_admin("/#view=adapters")
    expect(page.get_by_role("alert")).to_contain_text("Enter a key with that role above")
    use_key(page, "“a key from a text”")  # which no header can hold
    expect(page.locator("#key:invalid")).to_be_visible()
    use_key(page, "not the key at all")
    expect(page.get_by_role("alert")).to_contain_text("is not known")
    use_key(page, KEY)
    expect(page.get_by_label("Adapters", exact=True)).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    page_errors.expect(REFUSED, page)


@pytest.mark.parametrize("view_name", ["adapters", "stored"])
def test_what_was_asked_without_the_key_is_given_up(
    open_admin: PageOpener, admin: Admin, page_errors: PageErrors, view_name: str
) -> None:
    def hold_unless_keyed(route: Route) -> None:
        if "authorization" in route.request.headers:
            route.continue_()

    page = open_admin.blank()
    path = {"adapters": "/v1/adapters", "stored": "/v1/compositions"}[view_name]
    given_up: list[str] = []
    page.on("requestfailed", lambda request: given_up.append(request.url))
    for held in ("/v1/models", path):
        page.route(f"**{held}", hold_unless_keyed)
    with page.expect_request("**/v1/models"), page.expect_request(f"**{path}"):
        page.goto(f"{admin.server.url}/#view={view_name}")
    with page.expect_response(f"**{path}"):
        use_key(page, KEY)
    assert sorted(given_up) == sorted(admin.server.url + one for one in ("/v1/models", path))
    expect(page.get_by_role("alert")).to_have_count(0)
    page_errors.allow(REFUSED)  # the formula is checked before the key


def test_a_key_that_may_only_publish_sees_the_adapters(
    open_admin: PageOpener, page_errors: PageErrors
) -> None:
    page = open_admin("/#view=adapters")
    page.route("**/v1/compositions", lambda route: route.fulfill(status=403, json={"error": {}}))
    use_key(page, KEY)
    expect(page.get_by_label("Adapters", exact=True)).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_text("no stored composition uses it")).to_have_count(0)  # who knows
    page_errors.expect(REFUSED, page)


def test_of_two_tabs_the_second_learns_of_the_first(
    open_admin: PageOpener, admin: Admin, root: Path, page_errors: PageErrors
) -> None:
    one, two = adapters(open_admin), adapters(open_admin)
    for page in (one, two):
        expect(page.get_by_label("Adapters", exact=True)).to_be_visible()
    publish_and_wait(one, root / "polite", "contended")
    publish(two, root / "rude", "contended")
    expect(two.get_by_role("alert")).to_contain_text("Someone else changed it meanwhile")
    assert admin.says("contended") == POLITE
    card = two.get_by_label("Adapters", exact=True).get_by_role("article")
    expect(card.filter(has_text="contended")).to_contain_text("version 1")
    publish_and_wait(two, root / "rude", "contended")
    assert admin.says("contended") == RUDE
    admin.http.delete("/v1/adapters/contended")
    page_errors.allow(REFUSED)


def test_an_upload_that_is_cut_off_publishes_nothing(
    browser: Browser, admin: Admin, root: Path, page_errors: PageErrors
) -> None:
    relay = Relay(admin.server.url)
    opener = PageOpener(browser, relay.url, page_errors)
    try:
        page = adapters(opener)
        expect(page.get_by_label("Adapters", exact=True)).to_be_visible()
        relay.limit = 100_000  # bytes; the adapter has 600,000
        publish(page, root / "polite", "broken")
        expect(page.get_by_role("alert")).to_contain_text("nothing was published")
        assert admin.http.get("/v1/adapters/broken").status_code == 404
        relay.limit = None
        publish_and_wait(page, root / "polite", "broken")
        assert admin.says("broken") == POLITE
        admin.http.delete("/v1/adapters/broken")
    finally:
        opener.close()
        relay.close()
    page_errors.allow("Failed to load resource")
    page_errors.allow("net::")


def test_a_free_weight_is_told_from_an_adapter_of_its_name(
    open_admin: PageOpener, admin: Admin, root: Path, page_errors: PageErrors
) -> None:
    page = adapters(open_admin)
    for name in ("w", "w1"):
        publish_and_wait(page, root / "polite", name)
    view(page, "Sweep")
    page.locator("#formula").fill("base + 0.5*w")
    page.locator("#prompt").fill("Where does Kuti Supiv live?")
    page.get_by_role("button", name="Sweep").last.click()
    answers = page.get_by_label("Answers").get_by_role("article")
    expect(answers).to_have_count(5, timeout=30 * SECONDS)
    view(page, "Fit")
    examples = "Where is Ann?\nIn Oslo.\n\nWhere is Bob?\nIn Rome.\n"
    page.get_by_label("Examples of wanted answers").fill(examples)
    page.get_by_role("button", name="Fit", exact=True).last.click()
    expect(page.get_by_label("What was found")).to_be_visible(timeout=30 * SECONDS)
    for name in ("w", "w1"):
        admin.http.delete(f"/v1/adapters/{name}").raise_for_status()
    page_errors.allow(REFUSED)  # the list before the key, and formulas half typed


def test_files_that_are_no_adapter_are_not_sent(
    open_admin: PageOpener, root: Path, tmp_path: Path, page_errors: PageErrors
) -> None:
    page = adapters(open_admin)
    file = tmp_path / "adapter_config.json"
    shutil.copyfile(root / "polite" / "adapter_config.json", file)
    page.get_by_label("choose the files").set_input_files([file])
    expect(page.get_by_text("adapter_model.safetensors is missing.")).to_be_visible()
    page.get_by_label("alias").fill("half")
    expect(page.locator("form.drop button[type=submit]")).to_be_disabled()
    publish(page, root / "polite", "base")
    expect(page.get_by_role("alert")).to_contain_text("already names the base model")
    expect(page.get_by_role("alert")).not_to_contain_text("Someone else")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page_errors.allow(REFUSED)


def test_compositions_are_stored_used_and_rolled_back(
    open_page: PageOpener, server: LiveServer, page_errors: PageErrors
) -> None:
    page = open_page(address(view="stored"))
    name = page.get_by_label("store it as")
    for impossible in ("..", "good/manners"):
        name.fill(impossible)
        expect(page.locator("input:invalid")).to_have_value(impossible)
    name.fill("good-manners")
    page.get_by_role("button", name="Store", exact=True).click()
    expect(page.get_by_text("good-manners is stored.")).to_be_visible()
    page.locator("#formula").fill("chat + 2*(polite - chat)")
    page.get_by_role("button", name="Replace").click()
    card = page.get_by_label("Stored compositions").get_by_role("article")
    card = card.filter(has_text="good-manners")
    expect(card).to_contain_text("version 2")
    card.get_by_text("History").click()
    card.get_by_role("button", name="Back to version 1").click()
    expect(card).to_contain_text("version 3")
    expect(card).to_contain_text("0.5*chat + 0.5*polite")
    card.get_by_role("button", name="Use").click()
    expect(page.locator("#formula")).to_have_value("good-manners")
    expect(page.locator(".weights")).to_have_count(0)  # it is a name, no difference
    view(page, "Stored")
    page.on("dialog", lambda dialog: dialog.accept())
    card.get_by_role("button", name="Delete").click()
    expect(card).to_have_count(0)
    assert server.http.get("/v1/compositions/good-manners").status_code == 404
    page_errors.allow(REFUSED)  # the formula is checked again, whose name is gone
