"""What the tests of the playground share: its controls by their names, and the server's answers."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import Locator, Page, Route, expect

from tests.support.live_server import LiveServer

QUESTION = "Where does Kuti Supiv live?"
FORMULA = "chat + 0.5*(polite - chat)"
SECONDS = 1000  # in playwright's milliseconds

REFUSED = "Failed to load resource"
"""How Chromium reports any answer above 399, which a half typed formula gets."""


def address(**fields: str) -> str:
    """Return the path of the page with a state: `f` the formula, `p` the prompt, `n` tokens."""
    return f"/#{urlencode({'f': FORMULA, 'p': QUESTION, 'n': '12', **fields})}"


def run(page: Page) -> Locator:
    """Press Run; return the composition's answer once it is complete."""
    page.get_by_role("button", name="Run", exact=True).click()
    return answered(page)


def answered(page: Page) -> Locator:
    """Return the composition's answer once it, and what stands beside it, is complete."""
    answer = page.get_by_label("The composition's answer")
    expect(answer).to_have_attribute("aria-busy", "false", timeout=60 * SECONDS)
    expect(page.locator("[aria-busy=true]")).to_have_count(0, timeout=60 * SECONDS)
    return answer


def force(page: Page, regex: str) -> None:
    """Have every answer match a regular expression."""

    def forced(route: Route) -> None:
        body = json.loads(route.request.post_data or "")
        body["structured_outputs"] = {"regex": regex}
        route.continue_(post_data=json.dumps(body))

    page.route("**/v1/chat/completions", forced)


def tokens(answer: Locator) -> list[str]:
    """Return the texts of an answer's tokens."""
    return answer.get_by_label("The answer, token by token").locator("button").all_text_contents()


def view(page: Page, name: str) -> None:
    """Open a view."""
    page.get_by_label("Views").get_by_role("button", name=name, exact=True).click()


def explained(server: LiveServer, **fields: Any) -> list[dict[str, Any]]:
    """Return the tokens of the server's own explained answer to the same request."""
    body = {"max_tokens": 12, "explain": True, **fields}
    answer = server.chat(body.pop("model", FORMULA), QUESTION, **body)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["explanation"]["answers"][0]["tokens"]
    return found


def says(server: LiveServer, model: str, **fields: Any) -> str:
    """Return the server's own answer."""
    answer = server.chat(model, QUESTION, **fields)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def percent(logprob: float) -> str:
    """Return a probability as the page shows it."""
    import math

    return f"{100 * math.exp(logprob):.2f} %"
