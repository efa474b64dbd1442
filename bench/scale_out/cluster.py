"""Two servers of the zoo with one store, and routers in front of them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

import zoo
from bench.machine.router import routing
from bench.machine.server import Running, running

Check = tuple[str, bool]
"""What should hold, and whether it does."""

KEY = "the key of this benchmark"
ALIAS = "manner"
"""The alias that is published while the cluster runs."""

SOURCES = ("polite", "rude")
"""Adapters of the zoo that `ALIAS` points at in turn."""

ROWS = 12
"""Rows that a server computes at once; the clients ask for more, so that some wait."""

COMPLETIONS = "/v1/completions"
PROMPT = "Who are you?"
STORE = "X-Composer-Store"

_ENVIRONMENT = {
    "COMPOSER_ADMIN_KEY": KEY,
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
_FINISHED = re.compile(r"^composer_requests_total\{.*\} (\S+)$", re.MULTILINE)
_IN_FLIGHT = re.compile(r"^composer_requests_in_flight (\S+)$", re.MULTILINE)


@dataclass
class Cluster:
    """Servers with one store.

    options: of a server of this store.
    first, second: the servers; `second` is another process after a restart.
    router: sends requests to the servers in turn.
    sessions: sends all requests with one `X-Session-ID` to one server.
    """

    options: tuple[str, ...]
    stack: ExitStack
    first: Running
    second: Running
    router: httpx.Client
    sessions: httpx.Client

    @property
    def servers(self) -> tuple[Running, Running]:
        return self.first, self.second

    def restart_second(self) -> None:
        """Start a server on the port of `second`, which must have ended."""
        port = self.second.client.base_url.port
        self.second = self.stack.enter_context(running(_ENVIRONMENT, self.options, port=port))


@contextmanager
def cluster(further: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Start two servers and two routers.

    further: environment variables of the first two servers.

    Raises:
        CannotMeasure: vllm-router is not installed.
    """
    with ExitStack() as stack:
        store = stack.enter_context(tempfile.TemporaryDirectory())
        options = (
            *("--adapter-store", store, "--served-model-name", "zoo"),
            *("--adapter-root", str(zoo.PROJECT / "zoo" / "adapters")),
            *("--max-num-seqs", str(ROWS)),
        )
        environment = _ENVIRONMENT | dict(further or {})
        servers = [stack.enter_context(running(environment, options)) for _ in range(2)]
        urls = [str(server.client.base_url) for server in servers]
        router, sessions = (
            stack.enter_context(routing(urls, policy)).client
            for policy in ("round_robin", "consistent_hash")
        )
        yield Cluster(options, stack, servers[0], servers[1], router, sessions)


def publish(server: Running, source: str) -> tuple[str, str]:
    """Point `ALIAS` at an adapter of the zoo; return its digest and the store's position."""
    return _change(server, f"/v1/adapters/{ALIAS}", {"source": source}, "digest")


def store_composition(server: Running, name: str, formula: str) -> tuple[str, str]:
    """Store a composition; return its formula as the server writes it and the store's position."""
    path = f"/v1/compositions/{name}"
    plan, position = _change(server, path, formula, "plan")
    return plan["formula"], position


def ask(
    client: httpx.Client, model: str, *, headers: Mapping[str, str] | None = None, **fields: Any
) -> dict[str, Any]:
    """Return a greedy completion.

    Raises:
        httpx.HTTPStatusError: the answer is an error.
    """
    body = {"model": model, "prompt": PROMPT, "max_tokens": 8, "temperature": 0, **fields}
    response = client.post(COMPLETIONS, json=body, headers=headers)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def text(answer: Mapping[str, Any]) -> str:
    """Return the text of a completion."""
    return str(answer["choices"][0]["text"])


def finished(server: Running) -> int:
    """Return the number of requests for generated text that a server has finished."""
    return int(sum(map(float, _FINISHED.findall(server.client.get("/metrics").text))))


def since(cluster: Cluster, before: Sequence[int]) -> list[int]:
    """Return how many requests each server has finished since `finished` was `before`."""
    return [finished(s) - n for s, n in zip(cluster.servers, before, strict=True)]


def in_flight(server: Running) -> int:
    """Return the number of requests whose answer a server has not finished."""
    (value,) = _IN_FLIGHT.findall(server.client.get("/metrics").text)
    return int(float(value))


def _change(server: Running, path: str, body: object, field: str) -> tuple[Any, str]:
    response = server.client.put(path, json=body, headers={"Authorization": f"Bearer {KEY}"})
    response.raise_for_status()
    return response.json()[field], f">={response.headers[STORE]}"
