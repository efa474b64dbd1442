"""What one server is told, the other one knows: adapters, compositions, and when."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.scale_out.cluster import (
    ALIAS,
    PROMPT,
    SOURCES,
    STORE,
    Check,
    Cluster,
    ask,
    finished,
    publish,
    since,
    store_composition,
    text,
)

NAME = "courteous"
FORMULAS = (f"base + 0.5*{ALIAS}", f"base + 0.8*({ALIAS} - rude)")
UNKNOWN_S = 10.0
"""Longest wait for the refusal of a position that no server knows; servers wait two seconds."""


def shared(cluster: Cluster) -> Iterator[Check]:
    """Publish an adapter and store a composition on one server; ask both through the router."""
    _, position = publish(cluster.first, "rude")
    yield (
        "an adapter published on one server answers through the router on both",
        _both_answer(cluster, ALIAS, position, as_model="rude"),
    )
    _, position = store_composition(cluster.first, NAME, FORMULAS[1])
    yield (
        "a composition stored on one server answers through the router on both",
        _both_answer(cluster, NAME, position, as_model=FORMULAS[1]),
    )


def _both_answer(cluster: Cluster, model: str, position: str, *, as_model: str) -> bool:
    """Return whether both servers answer `model` as the server that was told answers `as_model`."""
    expected = text(ask(cluster.first.client, as_model))
    before = [finished(server) for server in cluster.servers]
    answers = {text(ask(cluster.router, model, headers={STORE: position})) for _ in range(4)}
    return since(cluster, before) == [2, 2] and answers == {expected}


def read_your_writes(cluster: Cluster, rounds: int) -> tuple[list[Check], str]:
    """Change an adapter and a composition on either server; ask for it at once through the router.

    Returns:
        the checks, and how many answers were stale without the header.
    """
    stale = {True: 0, False: 0}
    for n in range(2 * rounds):
        server, with_header = cluster.servers[n // 2 % 2], n % 2 == 0
        digest, _ = publish(server, SOURCES[n % 2])
        formula, position = store_composition(server, NAME, FORMULAS[n % 2])
        headers = {STORE: position} if with_header else {}
        for _ in cluster.servers:
            answer = ask(cluster.router, NAME, headers=headers)
            known = answer["adapters"][ALIAS] == digest
            known &= answer["composition"]["plan"]["formula"] == formula
            stale[with_header] += not known
    began = time.monotonic()
    body = {"model": NAME, "prompt": PROMPT}
    ahead = {STORE: f">={int(position.removeprefix('>=')) + 1}"}
    refused = cluster.first.client.post("/v1/completions", json=body, headers=ahead)
    within = time.monotonic() - began < UNKNOWN_S
    checks = [
        (
            f"{2 * rounds} answers with the position of a change know it: {stale[True]} do not",
            stale[True] == 0,
        ),
        (
            "a position that nobody has reached is refused: 503",
            refused.status_code == 503 and within and "retry-after" in refused.headers,
        ),
    ]
    return checks, f"{stale[False]} of {2 * rounds} answers without the position were stale"
