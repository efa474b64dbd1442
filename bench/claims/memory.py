"""Growth of resident memory over ten thousand composed requests.

The bound is 8 MiB over 8,000 requests, 1 KiB per request. A leaked vLLM request or gang is larger
than that (it holds a prompt, block hashes and parameters), and allocator noise is smaller.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
from pathlib import Path

import zoo
from bench.claim import Result
from bench.inprocess import InProcessEngine, live_requests
from bench.measure import show, table
from bench.workload import VOCABULARY, prompts, proxy_tuning

REQUESTS = 10_000
WARM_UP = 2_000
REPORT_EVERY = 2_000
AT_ONCE = 20
MIB = 2**20


def resident_bytes() -> int:
    """Return resident memory of this process, after returning free memory to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure() -> Result:
    """Return growth of resident memory between the warm-up and the end, in MiB."""
    engine = InProcessEngine(zoo.BASE, zoo.ADAPTERS)
    rng = random.Random(0)
    sizes: dict[int, int] = {}
    for sent in range(AT_ONCE, REQUESTS + 1, AT_ONCE):
        texts = prompts(AT_ONCE, rng.choice([4, 12, 20]), VOCABULARY, seed=sent)
        engine.run([proxy_tuning(engine, text, max_tokens=4) for text in texts])
        if sent % REPORT_EVERY == 0:
            sizes[sent] = resident_bytes()
    start = sizes[WARM_UP]
    rows = [(n, f"{b / MIB:.1f}", f"{(b - start) / MIB:+.2f}") for n, b in sizes.items()]
    show(table(("composed requests", "resident MiB", "growth"), rows))
    left = engine.leftovers()
    alive = live_requests()
    show(f"left in the engine: {left or 'nothing'}; vLLM requests alive: {alive}")
    return Result((sizes[REQUESTS] - start) / MIB, holds=not left and not alive)
