"""The playground's views that look for weights: a sweep, and a fit from examples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.playground import FORMULA, QUESTION, REFUSED, SECONDS, address, says, view
from tests.browser.watched_pages import PageErrors, PageOpener
from tests.support.live_server import LiveServer

POLITELY = "Certainly. Kuti Supiv lives in Mogtu. Have a lovely day."
WANTED = Path(__file__).parents[2] / "docs" / "examples" / "wanted.jsonl"


def test_a_sweep_shows_the_answer_of_every_weight(
    open_page: PageOpener, server: LiveServer
) -> None:
    page = open_page(address(view="sweep", n="24"))
    page.locator("#formula").press("Enter")  # which runs, but in its own view only
    page.get_by_label("to", exact=True).fill("1")
    page.get_by_label("points").fill("3")
    page.get_by_label("reference (optional)").fill(POLITELY)
    page.get_by_role("button", name="Sweep").last.click()
    cards = page.get_by_label("Answers").get_by_role("article")
    expect(cards).to_have_count(3, timeout=30 * SECONDS)
    for weight, card in zip((0, 0.5, 1), cards.all(), strict=True):
        model = f"chat + {weight}*(polite - chat)"
        expect(card.locator(".text")).to_have_text(says(server, model, max_tokens=24))
    item = {"messages": [{"role": "user", "content": QUESTION}], "completion": POLITELY}
    compositions = [f"chat + {weight}*(polite - chat)" for weight in (0, 0.5, 1)]
    body = {"compositions": compositions, "items": [item]}
    scored = server.http.post("/v1/compose/score", json=body).json()["data"][0]
    means = [one["logprob"] / len(scored["tokens"]) for one in scored["compositions"]]
    page.get_by_text("As a table").click()
    rows = page.get_by_role("table").get_by_role("cell").all_inner_texts()
    assert [float(row) for row in rows] == pytest.approx(means, abs=1e-3)
    expect(page.locator(".chart canvas")).to_be_visible()
    best = cards.nth(means.index(max(means)))
    expect(best).to_contain_text("the highest")
    best.get_by_role("button", name="Use this weight").click()
    expect(page.locator("#formula")).to_have_value("chat + 1*(polite - chat)")
    expect(page.get_by_label("The composition's answer")).to_have_count(0)
    view(page, "Sweep")
    expect(cards).to_have_count(3)


@pytest.mark.parametrize("name", ["Sweep", "Fit"])
def test_a_view_outlives_what_it_cannot_show(open_page: PageOpener, name: str) -> None:
    page = open_page(address(view=name.lower()))
    path = f"**/v1/compose/{name.lower()}"
    page.route(path, lambda route: route.fulfill(json={"data": None, "weights": {"w1": {}}}))
    examples = page.get_by_label("Examples of wanted answers")
    if name == "Fit":
        examples.fill(WANTED.read_text())
    button = page.get_by_role("button", name=name, exact=True).last
    button.click()
    expect(page.get_by_role("alert")).to_contain_text("not one that this page can show")
    expect(page.locator("#formula")).to_have_value(FORMULA)
    page.unroute(path)
    page.get_by_role("button", name="Start this view anew").click()
    expect(page.get_by_role("alert")).to_have_count(0)
    if name == "Fit":
        examples.fill(WANTED.read_text())
    button.click()
    shown = page.get_by_label("What was found" if name == "Fit" else "Answers")
    expect(shown).to_be_visible(timeout=60 * SECONDS)


def test_a_fit_finds_the_servers_weights_and_applies_them(
    open_page: PageOpener, server: LiveServer
) -> None:
    page = open_page(address(view="fit"))
    page.get_by_label("Examples of wanted answers").fill(WANTED.read_text())
    expect(page.get_by_text("14 examples are read.")).to_be_visible()
    page.get_by_role("button", name="Fit", exact=True).last.click()
    found = page.get_by_label("What was found")
    expect(found).to_be_visible(timeout=60 * SECONDS)
    items = [json.loads(line) for line in WANTED.read_text().splitlines()]
    body = {"formula": "chat + w*(polite - chat)", "items": items, "start": {"w": 0.5}}
    fitted = server.http.post("/v1/compose/fit", json=body).json()
    weight = fitted["weights"]["w"]
    expect(found).to_contain_text(f"{weight['value']:.4f}".rstrip("0"))
    expect(found).to_contain_text(f"± {weight['standard_error']:.4f}".rstrip("0"))
    judged = fitted["log_likelihood_per_token"]
    for value in (judged["fit"], *judged["members"].values()):
        expect(found).to_contain_text(f"{value:.4f}")
    before = found.get_by_role("row").filter(has_text="the weights before")
    expect(before).to_contain_text(f"{judged['start']:.4f}")
    found.get_by_role("button", name="Use these weights").click()
    applied = FORMULA.replace("0.5", f"{weight['value']:.4f}".rstrip("0"))
    expect(page.locator("#formula")).to_have_value(applied)
    view(page, "Fit")
    expect(page.get_by_label("Examples of wanted answers")).to_have_value(WANTED.read_text())
    expect(found).to_be_visible()


def test_a_fit_names_its_weights_in_any_order_of_choice(
    open_page: PageOpener, server: LiveServer
) -> None:
    page = open_page(address(view="fit", f="base + 0.5*chat + 0.5*polite"))
    page.get_by_label("Examples of wanted answers").fill(WANTED.read_text())
    for name in ("polite", "chat"):
        page.get_by_label(f"the weight of {name}").uncheck()
    for name in ("polite", "chat"):
        page.get_by_label(f"the weight of {name}").check()
    page.get_by_role("button", name="Fit", exact=True).last.click()
    found = page.get_by_label("What was found")
    expect(found).to_be_visible(timeout=60 * SECONDS)
    items = [json.loads(line) for line in WANTED.read_text().splitlines()]
    start = {"c": 0.5, "p": 0.5}
    body = {"formula": "base + c*chat + p*polite", "items": items, "start": start}
    weights = server.http.post("/v1/compose/fit", json=body).json()["weights"]
    for name, label in (("c", "chat"), ("p", "polite")):
        row = found.get_by_role("row").filter(has=page.get_by_role("rowheader", name=label))
        expect(row.first.get_by_role("cell").first).to_have_text(
            f"{weights[name]['value']:.4f}".rstrip("0")
        )


def test_examples_are_read_as_typed_and_mistakes_are_named(
    open_page: PageOpener, page_errors: PageErrors
) -> None:
    page = open_page(address(view="fit"))
    box = page.get_by_label("Examples of wanted answers")
    box.fill("Where is it?\nThere.\n\nWho is it?\nMe.\nMyself.\n")
    expect(page.get_by_text("2 examples are read.")).to_be_visible()
    box.fill("Where is it?\nThere.\n\nWho is it?\n")
    expect(page.get_by_text("Example 2 has a question and no answer below it.")).to_be_visible()
    box.fill('{"prompt": "a", "completion": "b"}\n{"prompt": ')
    expect(page.get_by_text("Line 2 is not JSON.")).to_be_visible()
    expect(page.get_by_role("button", name="Fit", exact=True).last).to_be_disabled()
    box.fill('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}')
    page.get_by_role("button", name="Fit", exact=True).last.click()
    expect(page.get_by_role("alert")).to_contain_text("completion")
    page_errors.expect(REFUSED, page)
