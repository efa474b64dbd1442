"""Two servers with one store behind vllm-router: changes, fields, restarts and deaths."""

from __future__ import annotations

from bench.claim import Result
from bench.measure import show, table
from bench.scale_out.cluster import Check, cluster
from bench.scale_out.failures import kill, restart
from bench.scale_out.fields import arrive, without_headers
from bench.scale_out.gateway import affinity, metrics
from bench.scale_out.one_store import read_your_writes, shared

ROUNDS = 10


def measure() -> Result:
    """Return failed checks plus lost requests. Takes three minutes."""
    with cluster() as two:
        checks: list[Check] = [*shared(two)]
        known, stale = read_your_writes(two, ROUNDS)
        checks += [*known, *arrive(two.router, "zoo"), *metrics(two), *affinity(two)]
        deaf = without_headers(two.router, "zoo")
        restarted, failed, refused = restart(two)
        killed, lost, dead = kill(two)
    checks += [*restarted, *killed]
    show(table(("check", "passed"), [(what, "yes" if passed else "no") for what, passed in checks]))
    for note in (
        stale,
        f"vllm-router passes no headers on to {', '.join(deaf) or 'no route'}",
        f"during the restart, {refused}: there the router does not ask another server",
        f"around the death of a server, {dead}",
    ):
        print(f"not counted: {note}")
    failures = sum(not passed for _, passed in checks)
    return Result(failures + failed + lost)
