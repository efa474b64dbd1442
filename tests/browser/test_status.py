"""The status page: it shows what /metrics says, to whom that may be shown."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from playwright.sync_api import Browser, Page, expect
from prometheus_client.parser import text_string_to_metric_families
from starlette.middleware import Middleware

from composer.release import VERSION
from server.auth.access_control import AccessControl, MetricsAccess
from server.auth.keys import KeyRing
from server.auth.quotas import Quotas
from server.routes.pages import make_pages
from tests.browser.watched_pages import PageErrors, PageOpener, violations
from tests.support.live_server import LiveServer
from tests.support.served_app import served

FORMULA = "base + 0.5*polite - 0.5*rude"
NOTHING = "\N{EN DASH}"
STORED = "of-the-status-page"
SECRET = "a key of the status page"
SPITEFUL = "<img src=x onerror=alert(1)>"
SHAPES = [
    {"color_scheme": scheme, "viewport": {"width": width, "height": 844}}
    for scheme in ("light", "dark")
    for width in (390, 1280)
]


@pytest.fixture(scope="module")
def busy(server: LiveServer) -> Iterator[LiveServer]:
    """The server, which has answered, refused and scored something and stores a composition."""
    stored = f"/v1/compositions/{STORED}"
    assert server.http.put(stored, json=FORMULA).is_success
    assert server.complete(STORED, max_tokens=2).is_success
    assert server.chat("auto", "What is 12 plus 7?", max_tokens=2).is_success
    assert server.complete("nobody").status_code == 404
    body = {"model": "polite", "items": [{"prompt": "Once upon a", "completion": " time"}]}
    assert server.http.post("/v1/compose/score", json=body).is_success
    yield server
    assert server.http.delete(stored).is_success


@contextmanager
def gateway(server: LiveServer, more: str = "") -> Iterator[str]:
    """A server that asks for a key, in front of the other's figures; `more` metrics at their end.
    Yields its address."""
    app = FastAPI()
    app.router.routes[:] = make_pages().routes
    keys = KeyRing(api_keys=[SECRET])
    access: dict[str, Any] = {"keys": keys, "quotas": Quotas(), "metrics": MetricsAccess.KEY}
    app.user_middleware.append(Middleware(AccessControl, **access))

    @app.get("/{path:path}")
    async def forward(path: str, request: Request) -> Response:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            answer = await http.get(f"/{path}")
        content = answer.text + (more if path == "metrics" else "")
        kind = answer.headers["content-type"]
        return Response(content, answer.status_code, headers={"content-type": kind})

    with served(app) as url:
        yield url.removesuffix("/v1")


def rows(page: Page, name: str) -> list[list[str]]:
    script = "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    shown: list[list[str]] = page.locator(f'[data-rows="{name}"] tr').evaluate_all(script)
    return shown


def test_it_shows_what_the_metrics_say(open_page: PageOpener, busy: LiveServer) -> None:
    page = open_page("/status")
    expect(page.locator("#state")).to_have_text("Serving")
    expect(page.locator("#about")).to_contain_text(f"Version {VERSION}, vLLM ")
    totals: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(busy.http.get("/metrics").text):
        for sample in family.samples:
            labels = sample.labels
            key = (sample.name, labels.get("composition", ""), labels.get("outcome", ""))
            totals[key] = totals.get(key, 0) + sample.value
    shown = rows(page, "requests")
    assert ["of-the-status-page", "ok"] in [row[:2] for row in shown]
    for composition, outcome, _, total in shown:
        expected = totals["composer_requests_total", composition, outcome]
        assert float(total.replace(",", "")) == expected
    assert "model_not_found" in {code for code, *_ in rows(page, "errors")}
    assert "arithmetic" in {expert for expert, *_ in rows(page, "choices")}
    assert ["score", "ok"] in [row[:2] for row in rows(page, "scorings")]
    digests = {
        card["id"]: card["digest"][:12]
        for card in busy.http.get("/v1/models").json()["data"]
        if "digest" in card
    }
    adapters = {row[0]: row[1:] for row in rows(page, "adapters")}
    assert {name: row[0] for name, row in adapters.items()} == digests
    users = {name for name, row in adapters.items() if STORED in row[1].split(", ")}
    assert users == {"polite", "rude"}
    durations = {name: since for name, _, _, since, _ in rows(page, "quantiles")}
    assert NOTHING not in (
        durations["Wait until all rows run"],
        durations["Time to the first token"],
    )


@contextmanager
def traffic(server: LiveServer) -> Iterator[None]:
    """One composed request after another, while the block runs."""
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
            while not over.is_set():
                body = {"model": FORMULA, "prompt": "Once upon a", "max_tokens": 400}
                http.post("/v1/completions", json=body | {"ignore_eos": True}).raise_for_status()

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield
        finally:
            over.set()
            asking.result()


def test_it_follows_requests(open_page: PageOpener, busy: LiveServer) -> None:
    page = open_page("/status")
    in_flight, tokens = (page.locator(f'[data-figure="{one}"]') for one in ("in_flight", "tokens"))
    expect(in_flight).to_have_text("0")
    with traffic(busy):
        expect(in_flight).to_have_text("1", timeout=30_000)
        held = {row[0] for row in rows(page, "adapters") if row[3] == "1"}
        assert held == {"polite", "rude"}
        assert page.locator('[data-figure="leases"]').text_content() == "2"
        expect(tokens).not_to_have_text(re.compile(f"^(0|{NOTHING})$"), timeout=30_000)
    expect(in_flight).to_have_text("0", timeout=30_000)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_everybody_can_read_it(
    open_page: PageOpener, busy: LiveServer, shape: dict[str, Any]
) -> None:
    page = open_page("/status", **shape)
    expect(page.locator('[data-rows="adapters"]')).to_contain_text("polite")
    assert violations(page) == []
    width = shape["viewport"]["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_key_opens_it_and_is_forgotten(
    browser: Browser, busy: LiveServer, page_errors: PageErrors
) -> None:
    with gateway(busy) as url:
        opener = PageOpener(browser, url, page_errors)
        page = opener("/status")
        expect(page.locator("#state")).to_have_text("This server asks for a key")
        assert violations(page) == []
        page.keyboard.type("not the key")  # the field has the focus
        page.keyboard.press("Enter")
        expect(page.locator("#refusal")).to_contain_text("not known")
        page_errors.expect("401", page)
        assert page.locator("#figures").is_hidden()
        page.keyboard.type(SECRET)
        page.keyboard.press("Enter")
        expect(page.locator("#state")).to_have_text("Serving")
        expect(page.locator('[data-rows="adapters"]')).to_contain_text(STORED)
        assert page.locator("#key").is_hidden()
        kept = "[document.cookie, localStorage.length, sessionStorage.length, location.href]"
        assert page.evaluate(kept) == ["", 0, 0, f"{url}/status"]
        assert page.locator("#secret").input_value() == ""
        page.reload()
        expect(page.locator("#state")).to_have_text("This server asks for a key")
        page_errors.expect("401", page)
        opener.close()


def test_a_server_that_is_gone(browser: Browser, busy: LiveServer, page_errors: PageErrors) -> None:
    with gateway(busy) as url:
        opener = PageOpener(browser, url, page_errors)
        page = opener("/status")
        expect(page.locator("#key")).to_be_visible()
        page.locator("#secret").fill(SECRET)
        page.locator("#secret").press("Enter")
        expect(page.locator("#state")).to_have_text("Serving")
    expect(page.locator("#state")).to_contain_text("does not answer since", timeout=20_000)
    assert page.locator("#figures").is_visible(), "the last figures stay"
    page_errors.expect("401", page)
    page_errors.expect("ERR_CONNECTION_REFUSED", page)
    opener.close()


def test_names_are_texts(browser: Browser, busy: LiveServer, page_errors: PageErrors) -> None:
    line = f'composer_router_choices_total{{expert="{SPITEFUL} \\"a\\\\b\\" }} x"}} 99999\n'
    with gateway(busy, line) as url:
        opener = PageOpener(browser, url, page_errors)
        page = opener("/status")
        page.locator("#secret").fill(SECRET)
        page.locator("#secret").press("Enter")
        expect(page.locator('[data-rows="choices"]')).to_contain_text("99,999")
        assert rows(page, "choices")[0][0] == f'{SPITEFUL} "a\\b" }} x'
        assert page.locator("img").count() == 0
        page_errors.expect("401", page)
        opener.close()


def test_quantiles_are_those_of_prometheus(open_page: PageOpener) -> None:
    """By its documentation: linear within a bucket, the lower bound of the last one."""
    page = open_page("/status")
    compute = """async ([share, all, before]) => {
        const { quantile } = await import("/page/status/metrics.js");
        const buckets = (counts) => new Map([1, 2, 4, Infinity].map((le, i) => [le, counts[i]]));
        return quantile(share, buckets(all), before ? buckets(before) : undefined) ?? null;
    }"""
    counts, nothing = [10, 20, 40, 40], [0, 0, 0, 0]
    for share, expected in ((0.25, 1), (0.5, 2), (0.75, 3), (0.125, 0.5)):
        assert page.evaluate(compute, [share, counts, None]) == expected
    assert page.evaluate(compute, [0.95, [0, 0, 0, 5], None]) == 4
    assert page.evaluate(compute, [0.5, counts, counts]) is None
    assert page.evaluate(compute, [0.5, nothing, None]) is None
    assert page.evaluate(compute, [0.5, [10, 20, 40, 44], counts]) == 4


BAD_GATEWAY = "<html><h1>Bad gateway</h1><script>alert(1)</script></html>"


@pytest.mark.parametrize(
    ("path", "status", "body", "said"),
    [
        ("ready", 502, BAD_GATEWAY, "/ready answered 502 with no JSON"),
        ("ready", 200, "null", "does not answer"),
        ("metrics", 200, BAD_GATEWAY, "/metrics holds none"),
        ("metrics", 200, "", "/metrics holds none"),
        ("v1/compositions", 200, BAD_GATEWAY, "/v1/compositions answered 200 with no JSON"),
        ("v1/compositions", 200, '{"data": [{"name": "a", "plan": {}}]}', "does not answer"),
    ],
)
def test_what_a_proxy_answers_in_place_of_the_server(
    open_page: PageOpener,
    busy: LiveServer,
    page_errors: PageErrors,
    path: str,
    status: int,
    body: str,
    said: str,
) -> None:
    page = open_page.blank()
    page.clock.install()
    page.route(f"**/{path}", lambda route: route.fulfill(status=status, body=body))
    page.goto(f"{busy.url}/status")
    expect(page.locator("#state")).to_contain_text(said)
    page.unroute(f"**/{path}")
    page.clock.run_for(10_000)  # ms; it asks again
    expect(page.locator("#state")).to_have_text("Serving")
    page_errors.allow("Failed to load resource")


@pytest.mark.parametrize("body", [BAD_GATEWAY, '{"detail": "no"}'], ids=len)
def test_a_proxy_that_wants_a_key(
    open_page: PageOpener, busy: LiveServer, page_errors: PageErrors, body: str
) -> None:
    page = open_page.blank()
    page.route("**/metrics", lambda route: route.fulfill(status=401, body=body))
    page.goto(f"{busy.url}/status")
    expect(page.locator("#secret")).to_be_focused()
    page.keyboard.type("not the key")
    page.keyboard.press("Enter")
    expect(page.locator("#refusal")).to_have_text("/metrics answered 401")
    page_errors.expect("401", page)


def test_figures_that_are_no_numbers(open_page: PageOpener, busy: LiveServer) -> None:
    text = busy.http.get("/metrics").text
    odd = {"requests_in_flight": "NaN", "leases": "+Inf", "rows_running": "-Inf"}
    for name, value in odd.items():
        text, found = re.subn(rf"^(composer_{name}) .*$", rf"\1 {value}", text, flags=re.MULTILINE)
        assert found == 1
    page = open_page.blank()
    page.route("**/metrics", lambda route: route.fulfill(body=text))
    page.goto(f"{busy.url}/status")
    for name in ("in_flight", "leases", "rows"):
        expect(page.locator(f'[data-figure="{name}"]')).to_have_text(NOTHING)
