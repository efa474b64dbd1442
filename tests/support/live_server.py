"""Start the real server as its users do: a process, a port, an HTTP client."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.machine.server import free_port, stop

ROOT = Path(__file__).resolve().parent.parent.parent
READY_S = 600
"""Longest wait for a start; a laptop needs a fifteenth of it when it has nothing else to do."""


class LiveServer:
    """A running server and an HTTP client for it."""

    def __init__(self, url: str, log: Path, pid: int) -> None:
        self.url = url
        self.log = log
        self.pid = pid
        self.http = httpx.Client(base_url=url, timeout=120, trust_env=False)

    def chat(self, model: str, text: str = "Who are you?", **fields: Any) -> httpx.Response:
        """POST /v1/chat/completions, greedy unless said otherwise."""
        messages = [{"role": "user", "content": text}]
        body = {"model": model, "messages": messages, "max_tokens": 12, "temperature": 0}
        return self.http.post("/v1/chat/completions", json=body | fields)

    def complete(self, model: str, prompt: Any = "Once upon a", **fields: Any) -> httpx.Response:
        """POST /v1/completions, greedy unless said otherwise."""
        body = {"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0}
        return self.http.post("/v1/completions", json=body | fields)

    def tokens(self, text: str) -> list[int]:
        """The token ids of a text, by vLLM's own route."""
        body = {"prompt": text, "add_special_tokens": False}
        tokens: list[int] = self.http.post("/tokenize", json=body).json()["tokens"]
        return tokens

    def metric(self, name: str) -> float:
        """One of vLLM's own metrics, summed over its labels."""
        lines = self.http.get("/metrics").text.splitlines()
        found = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{")]
        assert found, f"vLLM has no metric {name}"
        return sum(found)

    def log_line(self, request_id: str) -> str:
        """The line of a request in the log, which is written once the answer has been sent."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for line in self.log.read_text().splitlines():
                if f" request id={request_id} " in line:
                    return line
            time.sleep(0.05)
        raise AssertionError(f"the log has no line of the request {request_id}")

    def running(self) -> float:
        """Requests in the engine, running or waiting."""
        return self.metric("vllm:num_requests_running") + self.metric("vllm:num_requests_waiting")


@contextmanager
def serving(
    arguments: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    module: str = "server",
) -> Iterator[LiveServer]:
    """Start a server with these arguments; yield it once it answers /health, and stop it after.

    `module` is what `python -m` runs.
    """
    port = free_port()
    command = [sys.executable, "-m", module, "--port", str(port), *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | (environment or {}), stdout=out, stderr=out
        )
    try:
        server = LiveServer(f"http://127.0.0.1:{port}", log, process.pid)
        with server.http:
            _await_health(server, process)
            yield server
    finally:
        stop(process)


def refused(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Start a server that must end with an error before it is ready; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=READY_S,
        check=False,
    )
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    return done.stderr


def _await_health(server: LiveServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            if server.http.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        try:
            process.wait(0.2)  # returns early only if the server has ended
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
        raise AssertionError(f"the server did not start:\n{server.log.read_text()[-4000:]}")
