"""Pages in a real browser, Debian's Chromium, and a watch over what they do there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.watched_pages import PageErrors, PageOpener
from tests.support.live_server import LiveServer

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for a module. Playwright's event loop runs in this thread until the browser is
    closed, and no other may: tests that call `asyncio.run` cannot share a session with it."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no `chromium` on the PATH (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page_errors() -> Iterator[PageErrors]:
    """What goes wrong on the pages of a test; fails it at the end, except what it expected."""
    errors = PageErrors()
    yield errors
    assert errors.found == []


@pytest.fixture
def open_page(
    browser: Browser, server: LiveServer, page_errors: PageErrors
) -> Iterator[PageOpener]:
    """Opens pages of the shared server, each in a fresh profile, and watches them."""
    opener = PageOpener(browser, server.url, page_errors)
    yield opener
    opener.close()
