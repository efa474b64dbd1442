"""What the page copies and writes into links sends the same request elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote_plus

import httpx
from playwright.sync_api import Page, expect

from tests.browser.playground import FORMULA, address, run, tokens
from tests.browser.watched_pages import PageOpener
from tests.support.live_server import LiveServer


def test_state_is_in_the_fragment_and_nowhere_else(open_page: PageOpener) -> None:
    page = open_page("/")
    page.locator("#prompt").fill("a question of mine")
    page.locator("#key").evaluate("e => e.closest('details').open = true")
    page.locator("#key").fill("a key of mine")
    page.get_by_role("button", name="Use", exact=True).click()
    page.wait_for_url("**/*question*")
    assert "a question of mine" in unquote_plus(page.url)
    assert "a key of mine" not in unquote_plus(page.url)
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [
        0,
        0,
        "",
    ]
    page.reload()
    expect(page.locator("#prompt")).to_have_value("a question of mine")
    expect(page.get_by_text("API key set")).to_have_count(0)


def test_what_was_typed_last_is_there_after_a_look_at_the_status(open_page: PageOpener) -> None:
    page = open_page(address())
    page.locator("#prompt").fill("typed last")
    page.get_by_role("link", name="Status").click()
    expect(page).to_have_title("Composer status")
    page.go_back()
    expect(page.get_by_label("Question")).to_have_value("typed last")


def test_a_link_puts_nothing_into_a_shell(open_page: PageOpener) -> None:
    question = "it's\u001b[201~\nrm -rf ~ \\"
    fields = {"t": "0; echo no", "n": "1 & no", "seed": "$(no)", "view": "../x", "mode": "x"}
    page = open_page(address(p=question, **fields))
    expect(page.get_by_role("button", name="Compose")).to_have_attribute("aria-current", "page")
    expect(page.get_by_label("Question")).to_have_value(question)
    page.get_by_text("Copy as").click()
    text = copied(page, "composer")
    assert "\u001b" not in text
    script = f"composer() {{ shift; printf '%s|' \"$@\"; }}; {text}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    options = ["--model", FORMULA, "--temperature", "0", "--max-tokens", "64"]
    said = done.stdout.split("|")
    assert said[2:] == [*options, question, ""]


def test_no_text_in_a_link_turns_a_copy_around(open_page: PageOpener) -> None:
    question = "--help \u202e' \u2066; mr \u009b"
    page = open_page(address(p=question, n="1e999", t="1e999"))
    page.get_by_text("Copy as").click()
    for client in ("curl", "OpenAI client", "composer", "stored composition"):
        assert not set(copied(page, client)) & set("\u202e\u2066\u009b"), client
    script = f"composer() {{ shift; printf '%s|' \"$@\"; }}; {copied(page, 'composer')}"
    locale = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, env=locale, check=True)
    options = ["--temperature", "0", "--max-tokens", "64"]  # no link has infinite numbers
    assert done.stdout.decode().split("|")[4:] == [*options, "--", question, ""]


def copied(page: Page, client: str) -> str:
    group = page.get_by_role("group", name="Client")
    group.get_by_role("button", name=client, exact=True).click()
    return page.locator("#copy-text").inner_text()


def test_what_is_copied_gives_the_same_answer(
    open_page: PageOpener, server: LiveServer, tmp_path: Path
) -> None:
    page = open_page(address(s="You're a clerk.", seed="3"))
    shown = "".join(tokens(run(page))).removesuffix("<|end|>").strip()
    page.get_by_text("Copy as").click()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COMPOSER_BASE_URL": f"{server.url}/v1"}

    def output(command: list[str], text: str) -> str:
        done = subprocess.run(
            [*command, text], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    curl = json.loads(output(["bash", "-c"], copied(page, "curl")))
    assert curl["choices"][0]["message"]["content"] == shown
    assert output([sys.executable, "-c"], copied(page, "OpenAI client")) == shown
    assert output(["bash", "-c"], copied(page, "composer")) == shown
    stored = copied(page, "stored composition").replace("NAME", "copied")
    assert output(["bash", "-c"], stored).splitlines()[-1]
    answer = server.http.get("/v1/compositions/copied")
    assert answer.status_code == httpx.codes.OK
    assert answer.json()["composition"] == FORMULA
    server.http.delete("/v1/compositions/copied")
