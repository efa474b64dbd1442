"""What gateways read and send back: adapters in the metrics, and affinity."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bench.scale_out.cluster import ALIAS, COMPLETIONS, PROMPT, Check, Cluster, finished, since

SESSIONS = 24
"""Number of sessions; that all of them hash to one of two servers has a chance of 2**-23."""

_RUNNING = re.compile(r'^vllm:lora_requests_info\{.*running_lora_adapters="([^"]*)"', re.MULTILINE)


def metrics(cluster: Cluster) -> Iterator[Check]:
    """While an answer streams through the router, look at both servers' adapters."""
    body = {
        **{"model": f"base + 0.5*({ALIAS} - rude)", "prompt": PROMPT, "stream": True},
        **{"max_tokens": 400, "ignore_eos": True},
    }
    with cluster.router.stream("POST", COMPLETIONS, json=body) as response:
        # The server counts a step after it has sent the step's tokens.
        shown = any(_shows_aliases(cluster) for _ in response.iter_lines())
    yield "vllm:lora_requests_info shows the aliases that run", shown


def _shows_aliases(cluster: Cluster) -> bool:
    """Return whether exactly one server shows the two adapters of the formula."""
    pages = [server.client.get("/metrics").text for server in cluster.servers]
    shown = [{frozenset(names.split(",")) for names in _RUNNING.findall(page)} for page in pages]
    return sum({ALIAS, "rude"} in names for names in shown) == 1


def affinity(cluster: Cluster) -> Iterator[Check]:
    """Send requests with `X-Session-ID` to the router with `consistent_hash`."""
    values = {_ask(cluster, model) for model in ("polite + chat", "polite + rude")}
    yield "answers of other adapters have another X-Composer-Affinity", len(values) == 2
    for value in values:
        before = [finished(server) for server in cluster.servers]
        for _ in range(6):
            _ask(cluster, "polite + rude", value)
        reached = sorted(since(cluster, before))
        yield "requests with one X-Session-ID reach one server", reached == [0, 6]
    before = [finished(server) for server in cluster.servers]
    for n in range(SESSIONS):
        _ask(cluster, "polite", f"session {n}")
    yield f"{SESSIONS} sessions reach both servers", min(since(cluster, before)) > 0


def _ask(cluster: Cluster, model: str, session: str | None = None) -> str:
    """Ask in a session; return the affinity of the answer."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": 2}
    headers = {"X-Session-ID": session} if session is not None else {}
    response = cluster.sessions.post(COMPLETIONS, json=body, headers=headers)
    response.raise_for_status()
    return str(response.headers["x-composer-affinity"])
