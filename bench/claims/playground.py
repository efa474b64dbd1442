"""The playground in Chromium: its tests, and how soon it is painted."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

from bench.claim import CannotMeasure, Result
from bench.machine.environment import original
from bench.machine.server import serving
from bench.measure import show, table

ROOT = Path(__file__).resolve().parents[2]
LOADS = 7
MOST_S = 1.0
"""Longest first paint that the claim allows, with the server on the same machine."""

FIRST_PAINT = """() => new Promise(resolve => new PerformanceObserver((list) => {
  const paint = list.getEntries().find(entry => entry.name === 'first-contentful-paint');
  if (paint) resolve(paint.startTime);
}).observe({type: 'paint', buffered: true}))"""


def measure() -> Result:
    """Return the failed tests of `tests/browser`: every path, every violation of accessibility,
    and every request to another host fails one. Takes five minutes.

    Raises:
        CannotMeasure: there is no Chromium.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        raise CannotMeasure("there is no `chromium` on the PATH. Debian: apt-get install chromium")
    passed, failed = run_tests()
    paints = first_paints(chromium)
    rows = [
        ("tests that passed", str(passed)),
        ("tests that failed or were skipped", str(failed)),
        ("first paint, median of 7 fresh profiles, s", f"{statistics.median(paints):.2f}"),
        ("the slowest, s", f"{max(paints):.2f}"),
    ]
    show(table(("what", "value"), rows))
    return Result(failed, holds=passed > 0 and statistics.median(paints) < MOST_S)


def run_tests() -> tuple[int, int]:
    """Return how many tests passed, and how many did anything else."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/browser"]
        subprocess.run(
            [*command, "-m", "not long", f"--junitxml={report}"],
            cwd=ROOT,
            env=original(),
            check=False,  # the report says what failed
        )
        cases = list(ElementTree.parse(report).iter("testcase"))
    failed = sum(len(case) > 0 and any(one.tag != "system-out" for one in case) for case in cases)
    return len(cases) - failed, failed


def first_paints(chromium: str) -> list[float]:
    """Return the time from navigation to the first contentful paint, in seconds per load."""
    from playwright.sync_api import sync_playwright  # of the development environment

    paints = []
    with serving() as client, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(LOADS):
            context = browser.new_context()
            page = context.new_page()
            page.goto(str(client.base_url))
            page.wait_for_selector("#formula")
            paints.append(page.evaluate(FIRST_PAINT) / 1000)
            context.close()
        browser.close()
    return paints
