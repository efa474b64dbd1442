"""A server is restarted, or killed, while clients ask."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable

import httpx

from bench.scale_out.cluster import Check, Cluster, ask, finished, in_flight
from bench.scale_out.traffic import FORMULA, Outcome, Traffic, traffic

REPEATED = ("whole", "stream", "long")
"""Requests that vllm-router 0.1.17 sends to another server if the first does not answer."""

ONCE = ("messages",)
"""Requests that it does not."""

KINDS = ("whole", "stream", "stream", "messages")
CLIENTS = 8
LISTENERS = 4
"""Clients whose long answers have begun when their server is killed, two on each server."""

CROWD = 24
"""Clients of which most wait for their first token when their server is killed."""

WARM_S = 20.0
"""Longest wait until both servers answer the clients."""

END_S = 60.0
"""Longest wait for the end of a server that drains: the drain of 30 s, and as much again."""

BACK_S = 400.0
"""Longest wait until a restarted server answers the clients again."""

AFTER_S = 6.0
"""How long clients ask on after a server was killed."""

GONE_S = 60.0
"""Longest wait for the router's refusal when no server is left."""


def restart(cluster: Cluster) -> tuple[list[Check], int, str]:
    """Stop the second server as a rollout does, and start it again, while clients ask.

    Returns:
        the checks, the number of requests that failed, and what happened to requests that the
        router does not send twice.
    """
    longest = WARM_S + END_S + BACK_S
    with traffic(cluster.router, CLIENTS, longest, *KINDS) as clients:
        busy = _until(lambda: in_flight(cluster.second) > 0, WARM_S)
        cluster.second.process.send_signal(signal.SIGTERM)
        status = _ended_with(cluster.second.process)
        cluster.restart_second()
        back = _until(lambda: finished(cluster.second) > 0, BACK_S)
    repeated = clients.of(*REPEATED)
    failed = [outcome for outcome in repeated if not outcome.whole]
    _print(failed)
    checks = [
        ("requests were in flight on the server that drains", busy),
        (f"it ended with status {status}, which must be 0", status == 0),
        ("the router uses it again after its restart", back),
    ]
    what = f"of {len(repeated)} requests meanwhile, {len(failed)} failed"
    return [*checks, (what, not failed)], len(failed), _asked_once(clients)


def kill(cluster: Cluster) -> tuple[list[Check], int, str]:
    """Kill the first server while clients ask, then the second as well.

    Returns:
        the checks, the number of requests lost before their first token, and what happened to
        requests that the router does not send twice.
    """
    with traffic(cluster.router, LISTENERS, WARM_S, "long") as listeners:
        _until(lambda: sum(outcome.begun for outcome in listeners.outcomes) == LISTENERS, WARM_S)
        with traffic(cluster.router, CROWD, WARM_S + AFTER_S, *KINDS) as clients:
            busy = _until(lambda: in_flight(cluster.first) > CROWD // 4, WARM_S)
            cluster.first.process.kill()
            cluster.first.process.wait()
            time.sleep(AFTER_S)
    repeated = [*clients.of(*REPEATED), *listeners.outcomes]
    lost = [outcome for outcome in repeated if outcome.lost]
    broken = [outcome for outcome in repeated if outcome.broken]
    cut = [outcome for outcome in repeated if outcome.cut]
    _print([*lost, *cut, *broken[:3]])
    left = [ask(cluster.router, FORMULA)["usage"]["completion_tokens"] for _ in range(4)]
    cluster.second.process.kill()
    cluster.second.process.wait()
    checks = [
        ("requests were in flight on the server that is killed", busy),
        (f"of {len(repeated)} requests, {len(lost)} were lost before their first token", not lost),
        (
            f"{len(broken)} answers that had begun broke off with an error, {len(cut)} without",
            bool(broken) and not cut,
        ),
        ("the server that is left answers", len(left) == 4),
        ("with no server left, the router refuses", _is_refused(cluster.router)),
    ]
    return checks, len(lost), _asked_once(clients)


def _asked_once(clients: Traffic) -> str:
    """Return what happened to requests that vllm-router sends to one server only."""
    asked = clients.of(*ONCE)
    failed = [outcome for outcome in asked if not outcome.whole]
    _print(failed[:3])
    return f"{len(failed)} of {len(asked)} requests to /v1/messages failed"


def _is_refused(router: httpx.Client) -> bool:
    body = {"model": FORMULA, "prompt": "Hi", "max_tokens": 4}
    return router.post("/v1/completions", json=body, timeout=GONE_S).status_code >= 500


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    """Wait until something holds; return whether it does within this time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _ended_with(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit status of a process, None if it runs on after `END_S`."""
    try:
        return process.wait(END_S)
    except subprocess.TimeoutExpired:
        return None


def _print(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        print(f"{outcome.kind}: {outcome.error or 'ended early'}")
