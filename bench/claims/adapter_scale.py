"""Throughput with many adapters in use against few.

64 clients each send the next request when the answer to the last one is complete. The engine has 64
adapter slots (`max_loras`), one per adapter in use, so that no request waits for a slot, and keeps
128 adapters in memory (`max_cpu_loras`).

To the engine, a known but unused adapter is a folder on disk. One row of the table therefore sends
every 20th request to such an adapter, which is read, loaded into a slot and evicted again.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

import zoo
from bench.claim import Result
from bench.inprocess import InProcessEngine, Job
from bench.measure import RATIO, Side, cpu_seconds, paired, settle, show, table
from bench.workload import VOCABULARY
from composer.engine_plan import LoadedAdapter

KNOWN, USED, FEW = 1000, 64, 8
CLIENTS = 64
REQUESTS = 192
PROMPT_TOKENS, ANSWER_TOKENS = (16, 112), (16, 48)  # from, to
ROUNDS = 6
OPTIONS: dict[str, Any] = {
    "max_loras": USED,
    "max_cpu_loras": 2 * USED,
    "max_num_seqs": CLIENTS,
    "kv_blocks": 1024,
}

Pick = Callable[[random.Random, int], LoadedAdapter]
"""Choose the adapter of a client's next request, given the client's number."""


def measure() -> Result:
    """Return tokens per CPU second with 64 adapters in use over those with 8, median of rounds."""
    with tempfile.TemporaryDirectory() as folder:
        folders = variants(Path(folder), KNOWN)
        many = InProcessEngine(zoo.BASE, folders, **OPTIONS)
        few = InProcessEngine(zoo.BASE, dict(list(folders.items())[:FEW]), **OPTIONS)
        known, few_used = list(many.adapters.values()), list(few.adapters.values())
        used = known[:USED]
        base = side(few, lambda rng, client: rng.choice(few_used))
        cases: dict[str, Side] = {
            "64, at random": side(many, lambda rng, client: rng.choice(used)),
            "64, each client its own": side(many, lambda rng, client: used[client]),
            "64, at random; every 20th request another of the 1,000": side(
                many, lambda rng, client: rng.choice(known if rng.random() < 0.05 else used)
            ),
        }
        for run in (base, *cases.values()):
            run()  # warm up
        settle()
        costs = {name: paired(base, case, ROUNDS) for name, case in cases.items()}
    show(f"{CLIENTS} clients, {KNOWN} adapters known; CPU microseconds per token:")
    header = ("adapters in use", f"{FEW} known and used, at random", "these", *RATIO)
    show(table(header, [(name, *cost.microseconds()) for name, cost in costs.items()]))
    return Result(next(iter(costs.values())).ratio.median)


def variants(root: Path, count: int) -> dict[str, Path]:
    """Write `count` adapters: those of the zoo with B scaled, so that contents differ."""
    sources = [
        (path / "adapter_config.json", load_file(path / "adapter_model.safetensors"))
        for path in zoo.ADAPTERS.values()
    ]
    folders = {}
    for number in range(count):
        config, tensors = sources[number % len(sources)]
        folder = root / f"{number:04}"
        folder.mkdir()
        shutil.copy(config, folder)
        factor = 1 + number / (10 * count)
        changed = {
            name: (tensor * factor).to(tensor.dtype) if "lora_B" in name else tensor
            for name, tensor in tensors.items()
        }
        save_file(changed, folder / "adapter_model.safetensors")
        folders[folder.name] = folder
    return folders


def side(engine: InProcessEngine, pick: Pick) -> Side:
    """Return a measurement of CPU seconds per token; sides differ only in the adapters picked."""

    def run() -> float:
        rng = random.Random(0)  # every round picks the same adapters
        engine.forget_prefixes()
        tokens = 0

        def work() -> None:
            nonlocal tokens
            tokens = serve(engine, lambda client: pick(rng, client))

        return cpu_seconds(work) / tokens

    return run


def serve(engine: InProcessEngine, pick: Callable[[int], LoadedAdapter]) -> int:
    """Answer all requests as a server would; return the number of generated tokens."""
    rng = random.Random(1)
    lengths = [(rng.randint(*PROMPT_TOKENS), rng.randint(*ANSWER_TOKENS)) for _ in range(REQUESTS)]
    idle = list(range(CLIENTS))
    loading: list[tuple[int, Job]] = []
    running: dict[str, int] = {}
    tokens = 0
    while lengths or loading or running:
        while idle and lengths:
            prompt, answer = lengths.pop()
            client = idle.pop()
            text = tuple(rng.randrange(10, VOCABULARY) for _ in range(prompt))
            job = Job(text, adapter=pick(client), params={"max_tokens": answer})
            tokens += answer
            loading.append((client, job))
        for entry in list(loading):
            client, job = entry
            if job.adapter is not None and not engine.prefetch([job.adapter]):
                running[engine.add(job)] = client
                loading.remove(entry)
        idle += [running.pop(out.request_id) for out in engine.step() if out.finished]
    return tokens
