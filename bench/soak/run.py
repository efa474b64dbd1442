"""A soak from start to end: references, warm-up, traffic, leftovers."""

from __future__ import annotations

import asyncio
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

import zoo
from bench.machine.processes import resident_bytes
from bench.machine.server import Running, running
from bench.soak.cases import GATE, STORED, STORED_PLAN, make_cases, write_gate
from bench.soak.reference import references
from bench.soak.traffic import CLIENTS, Record, traffic
from zoo.prompts import EXAMPLES

KEY = "the key of the administrator of this soak"
QUESTIONS = 3
"""Number of questions per kind of case."""

WARM_UP_S = 60.0
"""Time in which caches and the allocator's memory fill."""
KV_MIB = 48
"""KV cache of the base model: small, so that requests wait, gangs are preempted, and all of it is
in use when memory is first measured."""

AUXILIARY_MIB = 8
"""KV cache of the auxiliary model, likewise."""

ENVIRONMENT = {
    "COMPOSER_ADMIN_KEY": KEY,
    # oneDNN caches up to 1,024 compiled kernels, one per batch shape: 100 MiB that take thousands
    # of requests to fill. A small cache leaves only the growth of the server itself.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
}
GAUGES = (
    *("vllm:num_requests_running", "vllm:num_requests_waiting", "composer_rows_running"),
    *("composer_gangs_waiting", "composer_leases"),
)
"""Gauges that must be 0 after the traffic."""


@dataclass(frozen=True, slots=True)
class Soaked:
    """The results of a soak."""

    record: Record
    cases: int
    seconds: float
    growth_mib: float
    """Memory of the server: median of the last tenth of the time minus that of the fifth tenth."""

    left: tuple[str, ...]
    """Gauges that did not return to 0, and generations still held."""

    traces: int
    """Tracebacks in the log."""


def soak(seconds: float) -> Soaked:
    """Run traffic for `seconds` against a server of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as folder,
        running(ENVIRONMENT, _options(Path(folder))) as server,
    ):
        return asyncio.run(_soak(server, seconds))


def _options(folder: Path) -> list[str]:
    write_gate(folder / "gate.safetensors")
    small = ",".join(f"{name}={path}" for name, path in zoo.SMALL_ADAPTERS.items())
    examples = ",".join(f"{name}={path}" for name, path in EXAMPLES.items())
    return [
        *("--auxiliary", f"small={zoo.SMALL},{small}", "--examples", examples),
        *("--router", f"{GATE}={folder / 'gate.safetensors'}"),
        *("--adapter-store", str(folder / "store")),
        *("--adapter-root", str(zoo.PROJECT / "zoo" / "adapters")),
        *("--kv-cache-memory-bytes", str(KV_MIB << 20)),
        *("--auxiliary-memory", str(AUXILIARY_MIB)),
    ]


async def _soak(server: Running, seconds: float) -> Soaked:
    # The server closes idle connections after 5 s. A request sent just then would fail, so these
    # clients close theirs sooner.
    limits = httpx.Limits(max_connections=2 * CLIENTS, keepalive_expiry=2.0)
    async with httpx.AsyncClient(
        base_url=server.client.base_url, timeout=None, limits=limits, trust_env=False
    ) as http:
        stored = await http.put(
            f"/v1/compositions/{STORED}",
            json=STORED_PLAN,
            headers={"Authorization": f"Bearer {KEY}"},
        )
        stored.raise_for_status()
        known = await references(http, make_cases(QUESTIONS, seed=5), KEY)
        await traffic(http, known, WARM_UP_S, KEY)
        sizes: list[int] = []
        watching = asyncio.create_task(_watch(server.process.pid, sizes))
        record = await traffic(http, known, seconds, KEY)
        watching.cancel()
        left = await _left(http)
        traces = server.text().count("Traceback (most recent call last)")
        return Soaked(record, len(known), seconds, growth_mib(sizes), left, traces)


async def _watch(pid: int, sizes: list[int]) -> None:
    """Append the memory of the server to `sizes` every second."""
    while True:
        sizes.append(resident_bytes(pid))
        await asyncio.sleep(1)


def growth_mib(sizes: Sequence[int]) -> float:
    """Return `Soaked.growth_mib`; the first tenths are left out, as caches fill in them."""
    tenth = max(1, len(sizes) // 10)
    middle, last = sizes[4 * tenth : 5 * tenth], sizes[-tenth:]
    return (statistics.median(last) - statistics.median(middle)) / 2**20


async def _left(http: httpx.AsyncClient) -> tuple[str, ...]:
    """Return what is still held after at most ten seconds."""
    deadline = time.monotonic() + 10
    while True:
        scraped = (await http.get("/metrics")).text
        values = re.findall(r"^(\S+?)(?:\{.*\})? (\S+)$", scraped, re.MULTILINE)
        left = [f"{name} {value}" for name, value in values if name in GAUGES and float(value)]
        missing = set(GAUGES) - {name for name, _ in values}
        listed = await http.get("/v1/adapters", headers={"Authorization": f"Bearer {KEY}"})
        left += [f"retiring {name}" for name in listed.json()["retiring"]]
        if not left or time.monotonic() > deadline:
            return (*left, *(f"no gauge {name}" for name in sorted(missing)))
        await asyncio.sleep(0.2)
