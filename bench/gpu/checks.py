"""The GPU checks. Each returns its section of the report and whether it passed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import zoo
from bench.agreement import PRESSURE, count_mismatches, send_under_pressure
from bench.gpu import billion, precision, speed
from bench.inprocess import InProcessEngine
from bench.measure import table
from bench.workload import VOCABULARY, prompts, proxy_tuning, random_job
from composer.reference.oracle import Oracle

Check = Callable[[], tuple[str, bool]]

GRAPHS: dict[str, Any] = {
    "dtype": "bfloat16",
    "enforce_eager": False,
    "asynchronous": True,
    "gpu_memory_utilization": 0.5,
}
"""Engine options on CUDA; on CPU the engine keeps its defaults."""

NOISE = 1e-3
"""Differences of log-probabilities up to this size are float32 rounding."""


def checks(cuda: bool) -> list[tuple[str, Check]]:
    """Return headings and checks in the order of the report."""
    selected: list[tuple[str, Check]] = [
        ("Agreement with transformers and PEFT, float32", lambda: oracle(cuda)),
        ("Agreement with plain rows", lambda: plain_rows(cuda)),
        ("Composition tax, zoo", lambda: tax(zoo_engine(cuda), cuda)),
    ]
    if cuda:
        heading = "Composition tax, Llama of 1B parameters, dummy weights"
        selected.append((heading, billion_tax))
    return selected


@cache
def zoo_engine(cuda: bool) -> InProcessEngine:
    options: dict[str, Any] = {"max_num_seqs": 256, "kv_blocks": None, "max_logprobs": -1}
    return InProcessEngine(zoo.BASE, zoo.ADAPTERS, **options, **(GRAPHS if cuda else {}))


def oracle(cuda: bool) -> tuple[str, bool]:
    """Compare answers under memory pressure with transformers and PEFT.

    vLLM's CUDA kernels for LoRA do not support float32, so on CUDA every member is the base model
    with its own prompt.
    """
    adapters = {} if cuda else zoo.ADAPTERS
    options = GRAPHS | {"dtype": "float32"} if cuda else {}
    engine = InProcessEngine(zoo.BASE, adapters, **PRESSURE, **options)
    outcome = send_under_pressure(engine, 0, 100 if cuda else 20, random_job)
    jobs = [answered.job for answered in outcome.answered]
    answers = [answered.answer for answered in outcome.answered]
    wrong, ties = count_mismatches(Oracle(zoo.BASE, adapters), jobs, answers)
    header = (
        "answered",
        "aborted",
        "tokens",
        "mismatches",
        "near-ties",
        "preempted gangs",
        "lost",
        "left",
    )
    tokens = sum(map(len, answers))
    left = len(outcome.leftovers)
    row = (
        *(len(jobs), outcome.aborted, tokens, wrong, ties),
        *(outcome.preempted_gangs, outcome.lost, left),
    )
    return table(header, [row]), not (wrong or outcome.lost or left)


def plain_rows(cuda: bool) -> tuple[str, bool]:
    """Compare composed answers with plain rows, and plain answers with themselves as a baseline."""
    engine = zoo_engine(cuda)
    count, length = (16, 48) if cuda else (4, 12)
    texts = prompts(count, 40, VOCABULARY, seed=1)
    composed = [proxy_tuning(engine, text, length) for text in texts]
    plain = [job.separate()[1] for job in composed]
    agreements = {
        "base + 0.8*(polite - rude)": precision.compare(engine, composed),
        "polite, plain": precision.compare(engine, plain),
    }
    rows = [
        (
            *(kind, agreement.tokens, f"{agreement.equal:.2%}", f"{agreement.worst_gap:.2e}"),
            *(f"{agreement.mean_difference:.2e}", f"{agreement.worst_difference:.2e}"),
        )
        for kind, agreement in agreements.items()
    ]
    composed_agreement, plain_agreement = agreements.values()
    # A member's rounding error is multiplied by its weight; normalizing adds it a second time.
    weights = sum(abs(row.weight) for row in composed[0].rows or ())
    allowed = max(NOISE, 2 * weights * plain_agreement.worst_difference)
    header = ("request", "tokens", "equal", "worst gap", "mean difference", "worst difference")
    about = (
        "Greedy answers against the same rows computed as plain requests and composed outside "
        "of the engine. The gap is how much less likely a token is than the likeliest; "
        f"differences are of log-probabilities, over the {precision.NEAR} likeliest tokens. By "
        f"the rounding of plain requests, composed ones may differ by {allowed:.2e}."
    )
    return f"{about}\n\n{table(header, rows)}", composed_agreement.worst_difference <= allowed


def tax(
    engine: InProcessEngine, cuda: bool, members: Sequence[str] = ("polite", "rude")
) -> tuple[str, bool]:
    """Measure 1, 16 and 64 concurrent composed requests of three rows each."""
    length, rounds = (64, 8) if cuda else (4, 2)
    rows = [
        speed.tax(engine, members, concurrent, length, rounds).cells() for concurrent in (1, 16, 64)
    ]
    about = (
        f"Three rows each, answers of {length} tokens. Wall clock from the first prompt to the "
        "last answer, divided by their length; medians."
    )
    return f"{about}\n\n{table(speed.HEADER, rows)}", True


def billion_tax() -> tuple[str, bool]:
    """Measure the same tax on a model of 1B parameters, whose weights take time to read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = billion.write_model(folder / "base")
        adapters = {
            name: billion.write_adapter(folder / name, seed)
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
