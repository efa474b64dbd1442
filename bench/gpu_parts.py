"""The parts of the GPU check. Each returns its section of the report and whether all was well."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import zoo
from bench import dummy, precision, speed
from bench.agreement import PRESSURE, count_mismatches, send_under_pressure
from bench.inprocess import InProcessEngine
from bench.measure import table
from bench.workload import VOCABULARY, prompts, proxy_tuning, random_job
from composer.reference.oracle import Oracle

Part = Callable[[], tuple[str, bool]]

GRAPHS: dict[str, Any] = {
    "dtype": "bfloat16",
    "enforce_eager": False,
    "asynchronous": True,
    "gpu_memory_utilization": 0.5,
}
"""How composing runs on CUDA; on CPU an engine keeps its defaults."""

NOISE = 1e-3
"""Differences of log probabilities that are none, in float32."""


def parts(cuda: bool) -> list[tuple[str, Part]]:
    """Headings and parts in the order of the report."""
    found: list[tuple[str, Part]] = [
        ("Agreement with transformers and PEFT, float32", lambda: oracle(cuda)),
        ("Agreement with plain rows", lambda: plain_rows(cuda)),
        ("Composition tax, zoo", lambda: tax(zoo_engine(cuda), cuda)),
    ]
    if cuda:
        found.append(("Composition tax, Llama of 1B parameters, dummy weights", billion))
    return found


@cache
def zoo_engine(cuda: bool) -> InProcessEngine:
    options: dict[str, Any] = {"max_num_seqs": 256, "kv_blocks": None, "max_logprobs": -1}
    return InProcessEngine(zoo.BASE, zoo.ADAPTERS, **options, **(GRAPHS if cuda else {}))


def oracle(cuda: bool) -> tuple[str, bool]:
    """Under memory pressure. vLLM's CUDA kernels for LoRA have no float32, so on CUDA the members
    are the base with prompts of their own."""
    adapters = {} if cuda else zoo.ADAPTERS
    options = GRAPHS | {"dtype": "float32"} if cuda else {}
    engine = InProcessEngine(zoo.BASE, adapters, **PRESSURE, **options)
    found = send_under_pressure(engine, 0, 100 if cuda else 20, random_job)
    jobs = [one.job for one in found.answered]
    answers = [one.answer for one in found.answered]
    wrong, ties = count_mismatches(Oracle(zoo.BASE, adapters), jobs, answers)
    header = (
        "answered",
        "aborted",
        "tokens",
        "mismatches",
        "near-ties",
        "preempted groups",
        "lost",
        "left",
    )
    tokens = sum(map(len, answers))
    left = len(found.leftovers)
    row = (len(jobs), found.aborted, tokens, wrong, ties, found.preempted_groups, found.lost, left)
    return table(header, [row]), not (wrong or found.lost or left)


def plain_rows(cuda: bool) -> tuple[str, bool]:
    """Composed answers, and plain ones to show what the order of computation does alone."""
    engine = zoo_engine(cuda)
    count, length = (16, 48) if cuda else (4, 12)
    texts = prompts(count, 40, VOCABULARY, seed=1)
    composed = [proxy_tuning(engine, text, length) for text in texts]
    plain = [job.separate()[1] for job in composed]
    found = {
        "base + 0.8*(polite - rude)": precision.compare(engine, composed),
        "polite, plain": precision.compare(engine, plain),
    }
    rows = [
        (
            *(kind, one.tokens, f"{one.equal:.2%}", f"{one.worst_gap:.2e}"),
            *(f"{one.mean_difference:.2e}", f"{one.worst_difference:.2e}"),
        )
        for kind, one in found.items()
    ]
    ours, theirs = found.values()
    # What rounding does to a member enters with its weight, and once more by normalizing.
    weights = sum(abs(row.weight) for row in composed[0].rows or ())
    allowed = max(NOISE, 2 * weights * theirs.worst_difference)
    header = ("request", "tokens", "equal", "worst gap", "mean difference", "worst difference")
    about = (
        "Greedy answers against the same rows computed as plain requests and composed outside "
        "of the engine. The gap is how much less likely a token is than the likeliest; "
        f"differences are of log probabilities, over the {precision.NEAR} likeliest tokens. By "
        f"the rounding of plain requests, composed ones may differ by {allowed:.2e}."
    )
    return f"{about}\n\n{table(header, rows)}", ours.worst_difference <= allowed


def tax(
    engine: InProcessEngine, cuda: bool, members: Sequence[str] = ("polite", "rude")
) -> tuple[str, bool]:
    """At 1, 16 and 64 composed requests of three rows."""
    length, rounds = (64, 8) if cuda else (4, 2)
    rows = [
        speed.tax(engine, members, concurrent, length, rounds).cells() for concurrent in (1, 16, 64)
    ]
    about = (
        f"Three rows each, answers of {length} tokens. Wall clock from the first prompt to the "
        "last answer, divided by their length; medians."
    )
    return f"{about}\n\n{table(speed.HEADER, rows)}", True


def billion() -> tuple[str, bool]:
    """The same on a model whose weights take time to read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = dummy.write_model(folder / "base")
        adapters = {
            name: dummy.write_adapter(folder / name, seed)
            for seed, name in enumerate(("polite", "rude"))
        }
        engine = InProcessEngine(
            base,
            adapters,
            load_format="dummy",
            max_num_seqs=256,
            kv_blocks=None,
            **GRAPHS | {"kv_cache_memory_bytes": 8 << 30},
        )
        return tax(engine, cuda=True)
