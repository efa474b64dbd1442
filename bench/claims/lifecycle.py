"""How the server ends: by signals, by the death of its engine, and by the death of its front end.

Each scenario starts a server of its own and has streams in flight. Every difference from
docs/operating.md counts as one deviation.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import httpx

from bench.claim import Result
from bench.machine.processes import await_end, descendants
from bench.machine.server import Running, running
from bench.measure import show, table

FORMULA = "base + 0.5*(polite - rude)"
DRAIN_S = 4.0
SOON_S = 20.0
"""Deadline for everything that should happen at once, on a busy machine."""
STOPPED, ENGINE_DIED = 0, 70
MODES = {"engine in one process": "0", "engine with a worker process": "1"}


def measure() -> Result:
    """Return the number of deviations over all scenarios in both modes of the engine."""
    rows, deviations = [], 0
    for mode, multiprocessing in MODES.items():
        for name, scenario in SCENARIOS.items():
            if name == "worker killed" and multiprocessing == "0":
                continue
            began = time.monotonic()
            environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": multiprocessing}
            with running(environment, ("--drain-seconds", str(DRAIN_S))) as server:
                check = Check(server)
                scenario(check)
                check.expect_nothing_left()
            deviations += len(check.deviations)
            outcome = "; ".join(check.deviations) or "as documented"
            rows.append((name, mode, check.status, f"{time.monotonic() - began:.0f}", outcome))
    show(table(("scenario", "mode", "exit status", "s", "outcome"), rows))
    return Result(deviations)


class Stream(threading.Thread):
    """A streamed completion and the events received so far."""

    def __init__(self, client: httpx.Client, tokens: int, answers: int = 1) -> None:
        super().__init__(daemon=True)
        self.events: list[str] = []
        self.begun = threading.Event()
        self.failure: Exception | None = None
        self._client = client
        self._body = {
            **{"model": FORMULA, "prompt": "Once upon a", "ignore_eos": True, "stream": True},
            **{"max_tokens": tokens, "n": answers},
        }
        self.start()

    def run(self) -> None:
        try:
            with self._client.stream("POST", "/v1/completions", json=self._body) as response:
                for line in response.iter_lines():
                    if line.startswith("data:"):
                        self.events.append(line.removeprefix("data:").strip())
                        self.begun.set()
        except httpx.HTTPError as error:
            self.failure = error

    @property
    def error(self) -> str | None:
        """Return the message of the error event, or None."""
        chunks = [json.loads(event) for event in self.events if event != "[DONE]"]
        return next((c["error"]["message"] for c in chunks if "error" in c), None)

    @property
    def done(self) -> bool:
        return bool(self.events) and self.events[-1] == "[DONE]"


class Check:
    """A server and the deviations seen until its end."""

    def __init__(self, server: Running) -> None:
        self.server = server
        self.deviations: list[str] = []
        self.started = descendants(server.process.pid)

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.deviations.append(what)

    def stream(self, tokens: int, answers: int = 1) -> Stream:
        """Return a stream that has begun."""
        stream = Stream(self.server.client, tokens, answers)
        self.expect(stream.begun.wait(SOON_S), "a stream did not begin")
        return stream

    def engine(self, name: str) -> int:
        """Return the id of the engine's process whose title contains `name`."""
        return next(pid for pid, title in self.started.items() if name in title)

    def get(self, path: str) -> int | None:
        """Return the HTTP status, or None if nothing listens."""
        try:
            return self.server.client.get(path).status_code
        except httpx.TransportError:
            return None

    def exits(self, status: int, within_s: float) -> None:
        """Expect the server to end by itself with this status."""
        try:
            ended_with = self.server.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.deviations.append(f"the server still ran after {within_s:g} s")
            return
        self.expect(ended_with == status, f"exit status {ended_with}, not {status}")

    @property
    def status(self) -> str:
        return str(self.server.process.poll())

    def expect_nothing_left(self) -> None:
        left = await_end(self.started, SOON_S)
        names = ", ".join(self.started[pid] for pid in left)
        self.expect(not left, f"left behind: {names}")
        for pid in left:
            os.kill(pid, signal.SIGKILL)


def drain(check: Check, send: Callable[[int], None] | None = None) -> None:
    """After SIGTERM, streams that can finish in time do; others end with an error event."""
    process = check.server.process
    long = check.stream(1900, answers=4)
    short = check.stream(30)
    (send or process.send_signal)(signal.SIGTERM)
    check.expect(_soon(lambda: check.get("/ready") == 503), "/ready was not 503")
    check.expect(check.get("/live") == 200, "/live was not 200")
    check.expect(check.get("/health") == 200, "/health was not 200")
    for path in ("/v1/completions", "/v1/messages"):
        try:
            refused = check.server.client.post(path, json={"model": "base", "prompt": "x"})
        except httpx.TransportError as error:
            check.deviations.append(f"{path} was not answered while the server drained: {error}")
            continue
        check.expect(refused.status_code == 503, f"{path} answered {refused.status_code}")
        check.expect("retry-after" in refused.headers, f"{path} sent no Retry-After")
        anthropic = "type" in refused.json()
        check.expect(
            anthropic == (path == "/v1/messages"),
            f"{path} answered in the error format of another route",
        )
    short.join(DRAIN_S)
    check.expect(short.done and short.error is None, "the short stream did not finish")
    long.join(DRAIN_S + SOON_S)
    check.expect(long.error is not None, f"the long stream had no error: {long.failure}")
    check.expect(long.done, "the long stream did not end with [DONE]")
    check.exits(STOPPED, SOON_S)


def drain_group(check: Check) -> None:
    """Signal all processes at once, as systemd and terminals do."""
    drain(check, lambda signum: os.killpg(check.server.process.pid, signum))


def idle(check: Check) -> None:
    """Send SIGTERM with nothing in flight."""
    check.server.process.send_signal(signal.SIGTERM)
    check.exits(STOPPED, SOON_S)


def second_signal(check: Check) -> None:
    process = check.server.process
    stream = check.stream(1900, answers=4)
    process.send_signal(signal.SIGINT)
    check.expect(_soon(lambda: check.get("/ready") == 503), "/ready was not 503")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    stream.join(SOON_S)
    check.expect(stream.error is not None and stream.done, "the stream had no error event")
    check.expect(time.monotonic() - began < DRAIN_S, "the drain went on")
    check.exits(128 + signal.SIGTERM, SOON_S)


def engine_killed(check: Check, name: str = "EngineCore") -> None:
    """Kill the engine, as the kernel does when memory runs out."""
    stream = check.stream(1900, answers=4)
    os.kill(check.engine(name), signal.SIGKILL)
    states = {"/health": check.get("/health"), "/ready": check.get("/ready")}
    if not _soon(lambda: check.get("/ready") != 200):
        check.deviations.append(f"still ready: {states}")
    stream.join(SOON_S)
    check.expect(stream.error is not None, f"the stream had no error event: {stream.failure}")
    check.exits(ENGINE_DIED, SOON_S)


def worker_killed(check: Check) -> None:
    engine_killed(check, "Worker")


def front_killed(check: Check) -> None:
    """Kill the front end: the engine must not stay and keep its memory."""
    check.stream(1900, answers=4)
    check.server.process.kill()
    check.exits(-signal.SIGKILL, SOON_S)


SCENARIOS: dict[str, Callable[[Check], None]] = {
    "SIGTERM": drain,
    "SIGTERM to the group": drain_group,
    "SIGTERM while idle": idle,
    "second signal": second_signal,
    "engine killed": engine_killed,
    "worker killed": worker_killed,
    "front end killed": front_killed,
}


def _soon(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SOON_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
