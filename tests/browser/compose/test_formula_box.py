"""The box for a formula: completion, and the error at its place."""

from __future__ import annotations

import json

import httpx
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.playground import FORMULA, REFUSED, address, run, tokens
from tests.browser.watched_pages import PageErrors, PageOpener
from tests.support.live_server import LiveServer


def opened_empty(open_page: PageOpener) -> tuple[Page, Locator]:
    """Return the page and its box, emptied of the first formula."""
    page = open_page(address(f=""))
    box = page.locator("#formula")
    expect(box).not_to_have_value("")
    box.fill("")
    return page, box


def test_a_recipe_is_completed_and_its_numbers_turn(
    open_page: PageOpener, page_errors: PageErrors
) -> None:
    page, box = opened_empty(open_page)
    box.press_sequentially("dex")
    page.get_by_role("option", name="dexperts").click()
    recipe = json.loads(box.input_value())
    assert recipe["recipe"] == "dexperts"
    assert recipe["alpha"] == 2
    page.get_by_label("Weight of alpha").fill("0.5")
    page.get_by_label("Weight of alpha").press("Tab")
    assert json.loads(box.input_value())["alpha"] == 0.5
    expect(run(page)).to_contain_text("0.5*")
    box.fill('{"recipe": "mixture", "experts": ["chat", "arithmetic"], "top_k": 2}')
    expect(page.get_by_role("slider", name="top_k")).to_have_attribute("step", "1")
    page_errors.allow(REFUSED)  # "dex" alone is no model


def test_a_weight_turns_below_zero_and_back(open_page: PageOpener) -> None:
    page = open_page(address(f="base + 1.5*(polite - rude) - chat"))
    box, slider, other = (page.locator(name) for name in ("#formula", "#weight-0", "#weight-1"))
    for value, formula in (
        ("-1.5", "base + -1.5*(polite - rude) - chat"),
        ("-3", "base + -3*(polite - rude) - chat"),
        ("0", "base + 0*(polite - rude) - chat"),
        ("2", "base + 2*(polite - rude) - chat"),
    ):
        slider.fill(value)
        expect(box).to_have_value(formula)
        expect(slider).to_have_value(value)
    other.fill("-0.5")
    expect(box).to_have_value("base + 2*(polite - rude) - -0.5*chat")
    box.fill("-1.5*chat + -polite")
    expect(slider).to_have_value("-1.5")
    expect(other).to_have_value("-1")
    slider.fill("0.5")
    other.fill("0.25")
    expect(box).to_have_value("0.5*chat + 0.25*polite")


def test_a_slider_reaches_both_signs_of_a_number_that_was_typed(open_page: PageOpener) -> None:
    page = open_page(address())
    box, slider = page.locator("#formula"), page.locator("#weight-0")
    for typed, end in (("20", "40"), ("1.5", "3")):
        box.fill(f"chat + {typed}*(polite - chat)")
        expect(slider).to_have_value(typed)
        expect(slider).to_have_attribute("max", end)
        expect(slider).to_have_attribute("min", f"-{end}")


def test_a_name_is_completed_where_it_was_typed(
    open_page: PageOpener, page_errors: PageErrors
) -> None:
    page, box = opened_empty(open_page)
    box.press_sequentially("chat + pol")
    expect(page.get_by_role("option", name="polite")).to_be_visible()
    box.press("Home")
    box.press("Enter")
    expect(box).to_have_value("chat + polite")
    page_errors.allow(REFUSED)


def test_a_box_that_was_emptied_stays_empty(open_page: PageOpener, page_errors: PageErrors) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page = open_page(address(f=""))
    page.route("**/v1/models", hold)
    with page.expect_request("**/v1/models"):
        page.reload()
    box = page.locator("#formula")
    box.press_sequentially("x")
    box.press("Backspace")
    with page.expect_response("**/v1/models"):
        held[0].continue_()
    box.press_sequentially("chat + pol")
    page.get_by_role("option", name="polite").click()
    expect(box).to_have_value("chat + polite")
    page_errors.allow(REFUSED)


def test_a_stored_composition_is_offered_as_a_whole_formula_only(
    open_page: PageOpener, server: LiveServer, page_errors: PageErrors
) -> None:
    server.http.put("/v1/compositions/politest", json=FORMULA).raise_for_status()
    page, box = opened_empty(open_page)
    names = page.get_by_role("listbox", name="Models and recipes").locator("code")
    for text, offered in (("poli", ["polite", "politest"]), ("chat + poli", ["polite"])):
        box.fill(text[:-1])
        box.press_sequentially(text[-1])
        expect(names).to_have_text(offered)
    server.http.delete("/v1/compositions/politest").raise_for_status()
    page_errors.allow(REFUSED)


def test_every_recipe_is_completed_to_a_valid_one(
    open_page: PageOpener, server: LiveServer, page_errors: PageErrors
) -> None:
    page, box = opened_empty(open_page)
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


def test_a_mistake_is_shown_at_its_place(open_page: PageOpener, page_errors: PageErrors) -> None:
    page = open_page(address())
    expect(page.locator("#formula")).to_have_attribute("spellcheck", "false")
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
