"""Adapters are replaced while requests run: no answer of a wrong generation, nothing left behind.

The harness checks the invariants of gang scheduling in every step; see `tests.engine.harness`.
"""

from __future__ import annotations

import gc
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from vllm.lora.lora_model import LoRAModel

from bench.claims.adapter_scale import variants
from bench.streams import without_streams
from composer.engine_plan import LoadedAdapter, Row
from composer.reference.oracle import TIE, Oracle, OracleRow
from tests.engine.harness import Job, WatchedEngine

GENERATIONS = 60
ALIASES = 6
REQUESTS = 60
SLOTS, IN_MEMORY = 3, 4
FIRST_ID = 8000  # apart from those of other engines in this process


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One for each generation. Neighbours are adapters of different tasks."""
    return variants(tmp_path_factory.mktemp("adapters"), GENERATIONS)


@pytest.fixture(scope="module")
def own_oracle(zoo_base: Path, folders: dict[str, Path]) -> Oracle:
    return Oracle(zoo_base, folders)


@pytest.fixture(scope="module")
def engine(zoo_base: Path, folders: dict[str, Path]) -> Iterator[WatchedEngine]:
    """Async scheduling, and room for nothing."""
    with without_streams():
        engine = WatchedEngine(
            zoo_base,
            folders,
            asynchronous=True,
            kv_blocks=17,
            max_num_seqs=8,
            max_num_batched_tokens=64,
            max_loras=SLOTS,
            max_cpu_loras=IN_MEMORY,
            max_model_len=256,
        )
        engine.adapters = {k: replace(a, id=FIRST_ID + a.id) for k, a in engine.adapters.items()}
        yield engine


def in_process() -> set[int]:
    """Ids of the adapters whose weights this process still holds, wherever."""
    gc.collect()
    alive = (thing for thing in gc.get_objects() if isinstance(thing, LoRAModel))
    return {lora.id for lora in alive if lora.id > FIRST_ID}


def adapters_of(job: Job) -> list[LoadedAdapter]:
    rows = job.rows or (Row(1.0, job.adapter),)
    return list({row.adapter.id: row.adapter for row in rows if row.adapter}.values())


def tokens(rng: random.Random, *lengths: int) -> tuple[int, ...]:
    return tuple(rng.randrange(10, 500) for _ in range(rng.choice(lengths)))


@dataclass
class Front:
    """What a front end does: aliases, leases, prefetching, retirement."""

    engine: WatchedEngine
    rng: random.Random
    hasty: bool
    """Retire a replaced generation while requests with it still wait, not only after the last."""

    unused: list[LoadedAdapter] = field(default_factory=list)
    current: dict[int, LoadedAdapter] = field(default_factory=dict)  # by alias
    leases: Counter[int] = field(default_factory=Counter)  # by adapter id
    replaced: set[int] = field(default_factory=set)
    loading: list[Job] = field(default_factory=list)
    running: dict[str, Job] = field(default_factory=dict)
    answered: list[tuple[Job, list[int]]] = field(default_factory=list)
    preempted_with_retired: int = 0

    def __post_init__(self) -> None:
        self.unused = list(self.engine.adapters.values())
        for alias in range(ALIASES):
            self.current[alias] = self.unused.pop(0)

    def submit(self) -> None:
        job = self.any_job()
        for adapter in adapters_of(job):
            self.leases[adapter.id] += 1
        self.loading.append(job)

    def any_job(self) -> Job:
        rng = self.rng
        prompt = tokens(rng, 1, 31, 32, 33, 65, 100)
        params = {"max_tokens": rng.choice([1, 5, 16, 40])}
        one, two, three = rng.sample(list(self.current.values()), 3)
        rows = rng.choice(
            [
                None,
                (Row(1.0), Row(1.3, one), Row(-1.0, two)),
                (Row(1.5, one), Row(-0.5, one, tokens(rng, 1, 40, 90))),
                (Row(0.5, one), Row(0.8, two), Row(-0.3, three)),  # as many as there are slots
            ]
        )
        return Job(prompt, rows, adapter=rng.choice([None, one, two]), params=params)

    def publish(self) -> None:
        """The next generation of an alias."""
        alias = self.rng.randrange(ALIASES)
        old, self.current[alias] = self.current[alias], self.unused.pop(0)
        self.replaced.add(old.id)
        if self.hasty or not self.leases[old.id]:
            self.engine.retire(old)

    def abort(self) -> None:
        name = self.rng.choice(sorted(self.running))
        self.engine.abort(name)
        self.end(self.running.pop(name))

    def step(self) -> None:
        for job in list(self.loading):
            if not self.engine.prefetch(adapters_of(job)):
                self.loading.remove(job)
                self.running[self.engine.add(job)] = job
        for out in self.engine.step():
            if out.finished:
                job = self.running.pop(out.request_id)
                self.answered.append((job, list(out.outputs[0].token_ids)))
                self.end(job)

    def end(self, job: Job) -> None:
        for adapter in adapters_of(job):
            self.leases[adapter.id] -= 1
            if adapter.id in self.replaced and not self.leases[adapter.id]:
                self.engine.retire(adapter)


def mismatches(oracle: Oracle, job: Job, answer: Sequence[int], shift: int = 0) -> int:
    """Tokens that are not the oracle's, with the generations of the request or `shift` later."""

    def content(row: OracleRow) -> OracleRow:
        if row.adapter is None:
            return row
        return replace(row, adapter=f"{(int(row.adapter) + shift) % GENERATIONS:04}")

    found = oracle.mismatches([content(r) for r in job.oracle_rows()], job.filters, answer)
    return sum(m.gap >= TIE for m in found)


@pytest.mark.parametrize("hasty", [False, True])
def test_answers_are_those_of_the_generation_they_began_with(
    hasty: bool, engine: WatchedEngine, own_oracle: Oracle
) -> None:
    rng = random.Random(hasty)
    front = Front(engine, rng, hasty)
    preempted = engine.watch.preempted_gangs
    sent, to_publish, aborted = 0, GENERATIONS - ALIASES, 0

    def goes_on() -> bool:
        """Requests come until a gang has been preempted, which depends on how fast disks are."""
        is_pressed = engine.watch.preempted_gangs > preempted
        return sent < REQUESTS or (not is_pressed and sent < 10 * REQUESTS)

    while goes_on() or to_publish or front.loading or front.running:
        if goes_on() and rng.random() < 0.3 and len(front.loading) < 4:
            front.submit()
            sent += 1
        if to_publish and rng.random() < 0.1:
            front.publish()
            to_publish -= 1
        if front.running and rng.random() < 0.01:
            front.abort()
            aborted += 1
        front.step()
        assert len(in_memory := engine.resident()) <= IN_MEMORY + 2 * SLOTS - 1, in_memory
    assert len(front.answered) == sent - aborted
    assert engine.watch.preempted_gangs > preempted, "no gang was preempted: not under pressure"

    for job, answer in front.answered:
        assert len(answer) == job.params["max_tokens"]
        assert mismatches(own_oracle, job, answer) == 0
    long = [(job, a) for job, a in front.answered if adapters_of(job) and len(a) > 1]
    other = [mismatches(own_oracle, job, answer, shift=1) > 0 for job, answer in long]
    assert sum(other) > 0.8 * len(other), "other generations answer the same: the test is blind"

    engine.assert_nothing_left()
    assert set(engine.resident()) <= {adapter.id for adapter in front.current.values()}
    assert in_process() == set(engine.resident())
    for adapter in front.current.values():
        engine.retire(adapter)
    assert engine.resident() == []
    assert in_process() == set()


@pytest.mark.parametrize("prefetched", [False, True])
def test_a_composition_of_all_slots_does_not_starve(
    prefetched: bool, engine: WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request comes in every step, for one of three other adapters, or for any other, loaded
    before it is sent: the composition competes for slots, or for room to load as well.

    When its patience is over, nobody behind it may take the slots that it waits for. What runs by
    then may end first.
    """
    monkeypatch.setattr(engine.scheduler.admission, "patience_s", 0.0)
    rng = random.Random(1)
    adapters = list(engine.adapters.values())
    gang, others = adapters[:SLOTS], adapters[SLOTS : None if prefetched else 2 * SLOTS]
    answer = 8
    waiting: list[Job] = []

    def step() -> list[str]:
        """One step; the names of the requests that ended."""
        if len(waiting) < 8:
            params = {"max_tokens": answer}
            waiting.append(Job(tokens(rng, 4), adapter=rng.choice(others), params=params))
        for job in list(waiting):
            if not (prefetched and engine.prefetch(adapters_of(job))):
                waiting.remove(job)
                engine.add(job)
        return [out.request_id for out in engine.step() if out.finished]

    for _ in range(20):
        step()
    end = time.monotonic() + 30  # polls of an idle engine are faster than any disk
    while prefetched and engine.prefetch(gang):
        step()
        assert time.monotonic() < end
    queued = len(engine.scheduler.waiting)
    rows = tuple(Row(0.5, adapter) for adapter in gang)
    name = engine.add(Job(tokens(rng, 20), rows, params={"max_tokens": 4}))
    steps = 0
    while name not in step():
        assert (steps := steps + 1) < answer * (queued + 3)
    engine.drain()
    engine.assert_nothing_left()
