"""Many adapters in use against few.

64 clients, each of which sends its next request when it has its answer. The engine has 64 adapter
slots (`max_loras`), as many as adapters are in use: with fewer, requests would wait for slots. It
keeps 128 adapters in memory (`max_cpu_loras`).

To an engine, an adapter that is known but not used is a folder on the disk. So a further row of the
table has requests for such adapters as well: each is read, put into a slot, and pushed out again.
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
"""The adapter of a client's next request, from the number of the client."""


def measure() -> Result:
    """Value: tokens per CPU second with 64 adapters in use over those with 8, median of rounds."""
    with tempfile.TemporaryDirectory() as folder:
        folders = variants(Path(folder), KNOWN)
        many = InProcessEngine(zoo.BASE, folders, **OPTIONS)
        few = InProcessEngine(zoo.BASE, dict(list(folders.items())[:FEW]), **OPTIONS)
        known, own = list(many.adapters.values()), list(few.adapters.values())
        used = known[:USED]
        base = side(few, lambda rng, client: rng.choice(own))
        cases: dict[str, Side] = {
            "64, at random": side(many, lambda rng, client: rng.choice(used)),
            "64, each client its own": side(many, lambda rng, client: used[client]),
            "64, at random; every 20th request another of the 1,000": side(
                many, lambda rng, client: rng.choice(known if rng.random() < 0.05 else used)
            ),
        }
        for one in (base, *cases.values()):
            one()  # warms up
        settle()
        found = {name: paired(base, one, ROUNDS) for name, one in cases.items()}
    show(f"{CLIENTS} clients, {KNOWN} adapters known; CPU microseconds per token:")
    header = ("adapters in use", f"{FEW} known and used, at random", "these", *RATIO)
    show(table(header, [(name, *one.microseconds()) for name, one in found.items()]))
    return Result(next(iter(found.values())).ratio.median)


def variants(root: Path, count: int) -> dict[str, Path]:
    """Adapters of the zoo, each with its B a little larger: other content, other answers."""
    sources = [
        (path / "adapter_config.json", load_file(path / "adapter_model.safetensors"))
        for path in zoo.ADAPTERS.values()
    ]
    found = {}
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
        found[folder.name] = folder
    return found


def side(engine: InProcessEngine, pick: Pick) -> Side:
    """CPU seconds per token of `REQUESTS` requests, the same ones but for their adapters."""

    def run() -> float:
        rng = random.Random(0)  # of the adapters; other rounds are the same
        engine.forget_prefixes()
        tokens = 0

        def work() -> None:
            nonlocal tokens
            tokens = serve(engine, lambda client: pick(rng, client))

        return cpu_seconds(work) / tokens

    return run


def serve(engine: InProcessEngine, pick: Callable[[int], LoadedAdapter]) -> int:
    """Answer all requests as a server would; the number of tokens of the answers."""
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
