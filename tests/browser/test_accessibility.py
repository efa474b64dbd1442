"""The playground for everybody: keyboard alone, contrast, names, phones."""

from __future__ import annotations

from typing import Literal

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from tests.browser.playground import SECONDS, address, answered, run, tokens, view
from tests.browser.watched_pages import PageErrors, PageOpener, violations

PHONE: ViewportSize = {"width": 390, "height": 844}
DESK: ViewportSize = {"width": 1280, "height": 900}


def press(page: Page, key: str, until: str, most: int = 40) -> None:
    """Press a key until the focus is on the element that matches a selector."""
    for _ in range(most):
        page.keyboard.press(key)
        if page.evaluate("selector => document.activeElement.matches(selector)", until):
            return
    raise AssertionError(f"{most} times {key} do not reach {until}")


def test_with_the_keyboard_alone(open_page: PageOpener, page_errors: PageErrors) -> None:
    page = open_page("/")
    expect(page.locator("#formula")).not_to_be_empty()
    press(page, "Tab", "#formula")
    page.keyboard.press("Control+A")
    page.keyboard.type("chat + 0.5*pol")
    expect(page.get_by_role("option", name="polite")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("#formula")).to_have_value("chat + 0.5*polite")
    press(page, "Tab", "#weight-0")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#formula")).to_have_value("chat + 0.55*polite")
    press(page, "Tab", "#prompt")
    page.keyboard.type("Where does Kuti Supiv live?")
    page.keyboard.press("Control+Enter")
    answer = answered(page)
    first = tokens(answer)
    press(page, "Tab", ".tokens button")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    press(page, "Tab", ".alternatives button")
    press(page, "Tab", ".alternatives button")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Branches")).to_be_visible(timeout=30 * SECONDS)
    answered(page)
    assert tokens(answer)[0] == first[0]
    assert tokens(answer)[1] != first[1]
    page_errors.allow("Failed to load resource")  # half a formula


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing(
    open_page: PageOpener, scheme: Literal["light", "dark"], size: ViewportSize
) -> None:
    page = open_page(address(), color_scheme=scheme, viewport=size)
    answer = run(page)
    answer.get_by_label("The answer, token by token").locator("button").first.click()
    page.get_by_text("Copy as").click()
    problems = violations(page)
    for name in ("Sweep", "Fit", "Stored"):
        view(page, name)
        problems += violations(page)
    assert problems == []
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= size["width"], "the page scrolls sideways"
