"""Make the pictures of docs/: the playground in Chromium, asking what the pages ask.

    python -m scripts.pictures [--url http://127.0.0.1:8000]

Start the server first: `make serve`. Needs Debian's `chromium` and the development environment.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "pictures"
DESK, PHONE = {"width": 1000, "height": 700}, {"width": 390, "height": 780}
WIDTH = 560  # pixels
QUALITY = 20  # of 100
STATE = {
    "f": "base + 1.5*(positive - negative)",
    "p": "How was the food?",
    "n": "24",
}
PATIENCE_MS = 120_000


def main() -> None:
    """Write every picture as a small WebP."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    url = parser.parse_args().url
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("there is no `chromium` on the PATH. Debian: apt-get install chromium")
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = opened(browser, url, scheme, DESK)
            answered(page)
            take(page.locator("body"), f"compose-{scheme}")
            page = opened(browser, url, scheme, PHONE)
            answered(page)
            take(page.locator(".answer"), f"phone-{scheme}")
        page = opened(browser, url, "light", DESK, view="sweep")
        page.get_by_label("from", exact=True).fill("-1.5")
        page.get_by_label("to", exact=True).fill("1.5")
        page.get_by_label("reference (optional)").fill("The food was great.")
        page.get_by_role("button", name="Sweep").last.click()
        page.locator(".multiples article").first.wait_for(timeout=PATIENCE_MS)
        page.locator(".chart canvas").wait_for()
        take(page.locator("body"), "sweep")
        browser.close()


def opened(browser: Browser, url: str, scheme: str, size: dict[str, int], **state: str) -> Page:
    """Return the page with the state of the pictures."""
    context = browser.new_context(color_scheme=scheme, viewport=size)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{url}/#{urlencode(STATE | state)}")
    page.locator("#formula").wait_for()
    return page


def answered(page: Page) -> None:
    """Ask, wait for all answers, and point at the last token but one."""
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator(".answer[aria-busy=false]").wait_for(timeout=PATIENCE_MS)
    page.locator(".columns [aria-busy=true]").first.wait_for(state="detached", timeout=PATIENCE_MS)
    tokens = page.locator(".tokens button")
    tokens.nth(tokens.count() - 3).click()


def take(part: Locator, name: str) -> None:
    """Write a picture of a part of the page."""
    picture = Image.open(io.BytesIO(part.screenshot())).convert("RGB")
    picture.thumbnail((WIDTH, 4 * WIDTH), Image.Resampling.LANCZOS)
    file = FOLDER / f"{name}.webp"
    picture.save(file, quality=QUALITY, method=6)
    print(f"{file.name}: {file.stat().st_size / 1000:.1f} KB")


if __name__ == "__main__":
    main()
