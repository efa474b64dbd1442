"""A model of random weights with adapters, a gate and an auxiliary model, and requests to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu.speed.roofline import Reads
from bench.gpu.speed.shapes import SHAPES, Config, write_adapter, write_gate, write_model
from bench.inprocess import InProcessEngine, Job
from composer.engine_plan import MixtureParameters, Row, Switch

ADAPTERS = ("expert", "anti_expert")
SMALL = "small"  # name of the auxiliary model
ROUTER = MixtureParameters(fixed=0.0, posterior=1.0, forgetting=0.9)


class Workbench:
    """Files of one of `SHAPES` below `folder`."""

    def __init__(self, folder: Path, shape: str) -> None:
        self.config, self.small_config = SHAPES[shape]
        self.base = write_model(folder / "base", self.config)
        self.small = write_model(folder / SMALL, self.small_config)
        self.adapters = {
            name: write_adapter(folder / name, self.config, seed)
            for seed, name in enumerate(ADAPTERS)
        }
        self.small_adapters = {
            ADAPTERS[0]: write_adapter(folder / "small_expert", self.small_config, 0)
        }
        self.gate = write_gate(folder / "gate.safetensors", self.config, len(ADAPTERS) + 1)

    def stock(self, **options: Any) -> InProcessEngine:
        """Return vLLM alone, without LoRA."""
        return InProcessEngine(self.base, {}, composing=False, load_format="dummy", **options)

    def composing(self, *, auxiliary: bool = False, **options: Any) -> InProcessEngine:
        """Return the composing engine, also with the auxiliary model."""
        auxiliaries = {SMALL: (self.small, self.small_adapters)} if auxiliary else None
        return InProcessEngine(
            self.base, self.adapters, auxiliaries=auxiliaries, load_format="dummy", **options
        )

    def sum_of(self, engine: InProcessEngine) -> Callable[[tuple[int, ...]], Job]:
        """Return requests for `base + 0.8*(expert - anti_expert)`."""
        expert, anti_expert = (engine.adapters[name] for name in ADAPTERS)
        return lambda prompt: Job(prompt, (Row(1.0), Row(0.8, expert), Row(-0.8, anti_expert)))

    def mixture_of(self, engine: InProcessEngine) -> Callable[[tuple[int, ...]], Job]:
        """Return requests for a mixture of base, expert and anti-expert by their posterior."""
        adapters = (None, *(engine.adapters[name] for name in ADAPTERS))
        rows = tuple(Row(1 / 3, adapter) for adapter in adapters)
        return lambda prompt: Job(prompt, rows, mixture=ROUTER)

    def routed(self, engine: InProcessEngine) -> Callable[[tuple[int, ...]], Job]:
        """Return requests of one row, whose adapter the gate chooses for every token."""
        candidates = (None, *(engine.adapters[name] for name in ADAPTERS))
        switch = Switch(candidates, gate=str(self.gate), classes=(0, 1, 2))
        return lambda prompt: Job(prompt, switch=switch)

    def with_auxiliary(self, engine: InProcessEngine) -> Callable[[tuple[int, ...]], Job]:
        """Return requests for `base + 0.8*(small:expert - small)`."""
        expert = engine.auxiliary_adapters[SMALL][ADAPTERS[0]]
        rows = (Row(1.0), Row(0.8, expert, None, SMALL), Row(-0.8, None, None, SMALL))
        return lambda prompt: Job(prompt, rows)


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to get an answer, as the speed table names it."""

    name: str
    request: Callable[[tuple[int, ...]], Job]
    rows: int = 1  # of the base model
    adapters: int = 0
    small_rows: int = 0
    small_adapters: int = 0
    separate: bool = False  # send the rows as plain requests

    def jobs(self, prompts: Sequence[tuple[int, ...]], answer: int) -> list[Job]:
        """Return requests for answers of `answer` tokens.

        Nothing is detokenized: plain rows would detokenize several times as many answers.
        """
        jobs = [self.request(prompt) for prompt in prompts]
        if self.separate:
            jobs = [row for job in jobs for row in job.separate()]
        for job in jobs:
            job.params |= {"max_tokens": answer, "detokenize": False}
        return jobs

    def reads(self, config: Config, small: Config, requests: int, context: float) -> list[Reads]:
        """Return what a step of so many requests reads of each model."""
        reads = [Reads(config, requests * self.rows, self.adapters, context)]
        if self.small_rows:
            rows = requests * self.small_rows
            reads.append(Reads(small, rows, self.small_adapters, context))
        return reads
