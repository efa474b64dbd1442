"""Pages whose errors, and whose requests to other hosts, are noted."""

from __future__ import annotations

import time
from importlib.resources import files
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page

AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
"""axe-core, of Deque Systems (MPL-2.0)."""

RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
PATIENCE_S = 10
LOCAL = ("data:", "blob:", "about:")


class PageErrors:
    """Console errors, uncaught exceptions, violations of the policy and foreign requests."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def expect(self, text: str, page: Page) -> None:
        """Wait for an error with this text on a page, and forget all that have it."""
        deadline = time.monotonic() + PATIENCE_S
        while not any(text in error for error in self.found):
            assert time.monotonic() < deadline, f"no error says {text!r}: {self.found}"
            page.wait_for_timeout(10)  # ms, in which events arrive
        self.found[:] = [error for error in self.found if text not in error]

    def allow(self, text: str) -> None:
        """Forget all errors with this text, whether there are any or not."""
        self.found[:] = [error for error in self.found if text not in error]

    def watch(self, context: BrowserContext, origin: str) -> None:
        """Note what goes wrong on every page of `context`, which belongs to `origin`."""
        note = self.found.append
        context.on("console", lambda m: note(f"console: {m.text}") if m.type == "error" else None)
        context.on("weberror", lambda error: note(f"uncaught: {error.error}"))

        def check(url: str) -> None:
            if not url.startswith((f"{origin}/", *LOCAL)):
                note(f"foreign request: {url}")

        context.on("request", lambda request: check(request.url))


class PageOpener:
    """Opens watched pages of one server."""

    def __init__(self, browser: Browser, origin: str, errors: PageErrors) -> None:
        """`origin`: of the server, as `http://127.0.0.1:8000`."""
        self._browser = browser
        self._origin = origin
        self._errors = errors
        self._contexts: list[BrowserContext] = []

    def __call__(self, path: str, **options: Any) -> Page:
        """Open a page in a profile of its own.

        Args:
            path: of the page, with its fragment.
            options: of `Browser.new_context`, such as `color_scheme` and `viewport`.
        """
        page = self.blank(**options)
        page.goto(f"{self._origin}{path}")
        return page

    def blank(self, **options: Any) -> Page:
        """Return an empty page in a profile of its own, to be prepared before it is opened."""
        context = self._browser.new_context(**options)
        self._contexts.append(context)
        self._errors.watch(context, self._origin)
        return context.new_page()

    def close(self) -> None:
        """Close every page."""
        for context in self._contexts:
            context.close()


def violations(page: Page) -> list[str]:
    """Return what axe finds on a page as it is now: rule, element, and what to do."""
    page.evaluate(AXE)
    report = page.evaluate(
        "rules => axe.run(document, {runOnly: {type: 'tag', values: rules}})", list(RULES)
    )
    assert report["passes"], "axe has looked at nothing"
    return [
        f"{rule['id']}: {node['html'][:120]}: {node['failureSummary']}"
        for rule in report["violations"]
        for node in rule["nodes"]
    ]
