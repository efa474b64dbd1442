"""The parts that measure speed, one engine each, on a model of random weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.gpu.part import Part, Section, section
from bench.gpu.speed import turns
from bench.gpu.speed.baseline import TransformersLoop
from bench.gpu.speed.cells import row
from bench.gpu.speed.kinds import BASE_ALONE, COMPOSED, PLAIN_ROWS
from bench.gpu.speed.roofline import Reads, bound_s
from bench.gpu.speed.workbench import Kind, Workbench
from bench.inprocess import InProcessEngine, Job, managers_of


def base(part: Part) -> list[Section]:
    """Measure vLLM alone: without LoRA and without our options."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(Path(folder), part.shape)
        engine = bench.stock(**part.speed_options())
        about = f"Model {part.shape}, vLLM without LoRA and without composition."
        return [_speed(part, about, bench, engine, Kind(BASE_ALONE, Job)), part.memory()]


def composed(part: Part) -> list[Section]:
    """Measure what one composing engine offers, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(Path(folder), part.shape)
        engine = bench.composing(**part.speed_options())
        summed = bench.sum_of(engine)
        kinds = (
            Kind("base, LoRA unused", Job),
            Kind(PLAIN_ROWS, summed, 3, 2, separate=True),
            Kind(COMPOSED, summed, 3, 2),
            Kind("one row, gate", bench.routed(engine), 1, 2),
            Kind("mixture by posterior, 3 rows", bench.mixture_of(engine), 3, 2),
        )
        about = f"Model {part.shape}, two adapters of rank 16, one engine for all."
        return [_speed(part, about, bench, engine, *kinds), part.memory()]


def auxiliary(part: Part) -> list[Section]:
    """Measure compositions with a smaller auxiliary model."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(Path(folder), part.shape)
        engine = bench.composing(auxiliary=True, **part.auxiliary_options())
        request = bench.with_auxiliary(engine)
        kind = Kind("composed, auxiliary", request, 1, small_rows=2, small_adapters=1)
        about = f"Model {part.shape} and a smaller auxiliary model with one adapter."
        return [_speed(part, about, bench, engine, kind), part.memory()]


def transformers(part: Part) -> list[Section]:
    """Measure a loop with transformers, one request of three rows at a time.

    It reads the weights once for each row.
    """
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(Path(folder), part.shape)
        loop = TransformersLoop(bench.base, part.device)
        rows = []
        for cell in part.budget.take([cell for cell in part.cells() if cell.requests == 1]):
            run = loop.run(cell, bench.config.vocabulary, part.budget)
            reads = [Reads(bench.config, 1, 0, cell.context)] * loop.rows
            bound = bound_s(reads, part.bytes_per_s)
            rows.append(row("transformers loop, 3 rows", cell, [run], bound))
        about = f"Model {part.shape}, adapters merged, one request at a time."
        return [section("Speed", about, rows, part.budget.left_out), part.memory()]


def _speed(
    part: Part, about: str, bench: Workbench, engine: InProcessEngine, *kinds: Kind
) -> Section:
    """Return the section on the speed of these kinds."""
    rows = turns.measure(
        engine, bench, kinds, part.cells(), part.rounds, part.bytes_per_s, part.budget
    )
    tokens = managers_of(engine.scheduler)[None].block_pool.num_gpu_blocks * part.block_tokens
    text = f"{about} The KV cache has room for {tokens} tokens."
    return section("Speed", text, rows, part.budget.left_out)
