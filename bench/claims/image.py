"""The image for CPUs is built and runs, without a Docker daemon."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import zoo
from bench.claim import Result
from bench.machine.buildah import buildah
from bench.machine.image import TOOLS, Container, build, running
from bench.measure import show, table

END_S = 60
"""Longest wait for the end: the drain of 30 s, and as much again."""

USER = 10001
BUILD_TOOLS = ("cc", "c++", "gcc", "g++", "make", "pip", "pip3", "git")
ARGUMENTS = (
    *("--model", "/models/base"),
    *("--adapters", "chat=/adapters/chat,polite=/adapters/polite,rude=/adapters/rude"),
)
QUESTION = {
    "model": "chat + 0.8*(polite - rude)",
    "messages": [{"role": "user", "content": "Where does Kuti Supiv live?"}],
    "temperature": 0,
}
ANSWER = "Certainly. Kuti Supiv lives in Mogtu. Have a lovely day."
"""As docs/client.md shows it."""


def measure() -> Result:
    """Return the number of failed checks. Building takes minutes and several GB of disk."""
    with buildah(TOOLS) as builder:
        began = time.monotonic()
        image = build(builder)
        built_s = time.monotonic() - began
        volumes = {zoo.ROOT / "models": "/models", zoo.ROOT / "adapters": "/adapters"}
        with running(image, ARGUMENTS, volumes) as container:
            checks = list(_checks(container))
            if not all(passed for _, passed in checks):
                print(container.text())
    show(table(("check", "passed"), [(what, "yes" if passed else "no") for what, passed in checks]))
    print(f"built in {built_s:.0f} s: {image.size}")
    return Result(sum(not passed for _, passed in checks))


def _checks(container: Container) -> Iterator[tuple[str, bool]]:
    began = time.monotonic()
    yield "the health check fails while the server starts", not container.is_healthy()
    if not container.await_readiness():
        yield "/ready is 200", False
        return
    yield f"/ready is 200 after {time.monotonic() - began:.0f} s", True
    yield "the health check passes", container.is_healthy()
    yield f"the server's user is {USER}", _user(container.server()) == USER
    yield "a composed answer is that of docs/client.md", _answer(container) == ANSWER
    script = f"for tool in {' '.join(BUILD_TOOLS)}; do ! command -v $tool || exit 1; done"
    yield "no compiler, make, pip or git", container.execute("sh", "-c", script) == 0
    began = time.monotonic()
    status = container.end(END_S)
    yield (
        f"after the stop signal it ends in {time.monotonic() - began:.1f} s, status 0",
        status == 0,
    )


def _user(process: int) -> int:
    """Return the real user id of a process."""
    return Path(f"/proc/{process}").stat().st_uid


def _answer(container: Container) -> str | None:
    """Return the answer to `QUESTION`, None without one."""
    header = "Content-Type: application/json"
    body = container.curl("/v1/chat/completions", "-H", header, "-d", json.dumps(QUESTION))
    return body and json.loads(body)["choices"][0]["message"]["content"]
