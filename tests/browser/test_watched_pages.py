"""The watch over pages sees what it should."""

from __future__ import annotations

import pytest

from tests.browser.watched_pages import PageErrors, PageOpener, violations

FOREIGN = "http://127.0.0.2:9/x"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("console.error('it says so')", "console: it says so"),
        ("setTimeout(() => { throw new Error('it broke') })", "uncaught: it broke"),
        (f"fetch('{FOREIGN}').catch(() => null)", "Content Security Policy"),
        (f"location.href = '{FOREIGN}'", f"foreign request: {FOREIGN}"),
        ("document.body.setAttribute('style', 'color: red')", "Content Security Policy"),
        ("fetch('v1/nothing')", "404"),
    ],
)
def test_what_goes_wrong_is_noted(
    open_page: PageOpener, page_errors: PageErrors, script: str, error: str
) -> None:
    page = open_page("/status")
    page_errors.found.clear()
    page.evaluate(f"() => {{ {script} }}")
    page_errors.expect(error, page)
    page_errors.found.clear()


def test_axe_finds_what_is_wrong(open_page: PageOpener) -> None:
    page = open_page("/status")
    page.evaluate("document.body.append(document.createElement('button'))")
    assert [one for one in violations(page) if one.startswith("button-name")]
