"""Neither plain requests nor gangs starve. The scheduler's clock stands still unless it is set."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from vllm.v1.request import Request

from composer.engine_plan import Row
from composer.reference.oracle import Oracle
from composer.vllm.schedule.gang import Gang
from composer.vllm.schedule.reservation import Need, Reservation
from tests.engine.harness import Job, WatchedEngine, count_mismatches

SHORT = (7, 8, 9, 10)
PROMPT = tuple(range(40, 77))  # two KV blocks
ROWS = 8  # of the engine `tight`, which holds 16 blocks of 32 tokens and 3 adapters


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(tight: WatchedEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(tight.scheduler.admission, "clock", clock)
    yield clock
    tight.drain()
    tight.assert_nothing_left()
    assert tight.scheduler.admission.reservation is None


def gang(size: int, prompt: tuple[int, ...] = SHORT, max_tokens: int = 3) -> Job:
    """Rows of the base model that read different prompts, so that they share no blocks."""
    others = tuple(Row(0.1, None, (k, *prompt[1:])) for k in range(20, 19 + size))
    return Job(prompt, (Row(1.0), *others), params={"max_tokens": max_tokens})


def plain(max_tokens: int, prompt: tuple[int, ...] = SHORT) -> Job:
    return Job(prompt, params={"max_tokens": max_tokens})


def ended(engine: WatchedEngine) -> list[str]:
    """Takes a step; the requests that ended in it."""
    return [out.request_id for out in engine.step() if out.finished]


class Flood:
    """Plain clients: as soon as one has its answer, the next request comes."""

    def __init__(self, engine: WatchedEngine, clients: int, max_tokens: int) -> None:
        self._engine = engine
        self._max_tokens = max_tokens
        self.ended: set[str] = set()
        self._open = {self._ask(1 + k % max_tokens) for k in range(clients)}

    def _ask(self, max_tokens: int) -> str:
        return self._engine.add(plain(max_tokens))

    def step(self) -> set[str]:
        """The requests that ended in a step."""
        ended = {out.request_id for out in self._engine.step() if out.finished}
        for name in ended & self._open:
            self._open.remove(name)
            self._open.add(self._ask(self._max_tokens))
        self.ended |= ended
        return ended


def run_until(ends: Callable[[], bool], step: Callable[[], object], most: int = 200) -> None:
    """Take steps until something is the case. A scheduler that stalls takes them forever."""
    for _ in range(most):
        if ends():
            return
        step()
    assert ends(), f"not the case after {most} steps"


def admitted(engine: WatchedEngine) -> int:
    return sum(one.admitted for one in engine.scheduler.gangs.by_leader.values())


def test_a_gang_is_passed_while_it_is_patient_and_then_gets_its_room(
    tight: WatchedEngine, clock: Clock
) -> None:
    """Twelve clients, eight rows, a gang of six: admitted at the latest when the longest answer
    that ran at the end of its patience is complete."""
    longest = 5
    flood = Flood(tight, 12, longest)
    flood.step()
    waiting = tight.add(gang(6))
    for _ in range(longest):
        flood.step()  # until a row is free: only then is there a question whether it fits
    before = len(flood.ended)
    clock.now_s += 2.9
    for _ in range(40):
        flood.step()
    assert admitted(tight) == 0
    assert len(flood.ended) > before + 40  # nobody is held up
    clock.now_s += 0.2
    for _ in range(longest + 2):
        flood.step()
        if admitted(tight):
            break
    assert admitted(tight) == 1
    kept_out = len(flood.ended)
    run_until(lambda: waiting in flood.ended, flood.step)
    assert len(flood.ended) > kept_out  # the two rows beside the gang stay open to others


def test_what_the_gang_does_not_need_stays_open(tight: WatchedEngine, clock: Clock) -> None:
    """Three long answers keep the gang out; four clients pass it all the time, two at a time."""
    long = {tight.add(plain(60)) for _ in range(3)}
    tight.step()
    tight.add(gang(6))
    tight.step()
    clock.now_s += 1000  # no patience is left
    tight.step()
    flood = Flood(tight, 4, 2)
    for _ in range(50):
        flood.step()
        assert len(tight.scheduler.running) <= 3 + 2
    assert admitted(tight) == 0
    assert len(flood.ended) >= 40
    run_until(lambda: long <= flood.ended, flood.step)
    for _ in range(3):
        flood.step()
        if admitted(tight):
            return
    pytest.fail("the gang has room and was not admitted")


def test_a_plain_request_passes_fifty_waiting_gangs(
    tight: WatchedEngine, clock: Clock, oracle: Oracle
) -> None:
    """Each takes 10 of 16 blocks, so one runs at a time, and a third of the cache is free."""
    jobs = [gang(5, PROMPT, max_tokens=8) for _ in range(50)]
    names = [tight.add(job) for job in jobs]
    tight.step()
    done = {}
    for _ in range(6):
        clock.now_s += 100  # all of them have waited too long
        for _ in range(7):
            done.update({out.request_id: out for out in tight.step() if out.finished})
        asked = plain(4)
        name = tight.add(asked)
        for _ in range(4 + 1):
            done.update({out.request_id: out for out in tight.step() if out.finished})
        assert name in done
        jobs.append(asked)
        names.append(name)
    done.update(tight.drain())
    answers = [list(done[name].outputs[0].token_ids) for name in names]
    wrong, _ = count_mismatches(oracle, jobs[-6:], answers[-6:])
    assert wrong == 0
    assert all(answer == answers[0] for answer in answers[:50])


def test_plain_requests_do_not_take_the_blocks_of_a_gang(
    tight: WatchedEngine, clock: Clock
) -> None:
    """The gang needs 12 of 16 blocks, and each of the others takes 5."""
    long = tuple(range(20, 20 + 140))
    running = [tight.add(plain(20, long)) for _ in range(3)]
    tight.step()
    waiting = tight.add(gang(6, PROMPT))
    gangs = tight.scheduler.gangs.by_leader
    run_until(lambda: any(one.refused_s for one in gangs.values()), tight.step)
    clock.now_s += 3
    behind = [tight.add(plain(20, tuple(t + k for t in long))) for k in range(1, 7)]
    done: list[str] = []
    run_until(lambda: waiting in done, lambda: done.extend(ended(tight)))
    assert set(running) <= set(done)
    assert not set(behind) & set(done)


def test_a_smaller_gang_passes_a_larger_one(tight: WatchedEngine, clock: Clock) -> None:
    for _ in range(5):
        tight.add(plain(12))
    tight.step()
    large, small, same = tight.add(gang(4)), tight.add(gang(3)), tight.add(gang(4))
    done: list[str] = []
    run_until(lambda: len(done) >= 8, lambda: done.extend(ended(tight)))
    assert done.index(small) < done.index(large) < done.index(same)


def test_a_gang_gets_its_adapter_slots(tight: WatchedEngine, clock: Clock) -> None:
    """Three slots. Clients of the adapters in use keep them while the gang is patient, not after;
    who needs none passes."""
    use = tight.adapters

    def asks(name: str, max_tokens: int) -> Job:
        return Job(SHORT, adapter=use[name], params={"max_tokens": max_tokens})

    tight.add(asks("polite", 4))
    tight.add(asks("rude", 6))
    tight.step()
    rows = (Row(1.0, use["chat"]), Row(0.5, use["velan"]))
    waiting = tight.add(Job(SHORT, rows, params={"max_tokens": 3}))
    in_time = tight.add(asks("polite", 8))
    assert tight.step() == []
    assert len(tight.scheduler.running) == 3
    clock.now_s += 3
    tight.add(asks("rude", 30))  # rude, chat and velan are three: it may pass
    too_many = tight.add(asks("arithmetic", 2))
    base = tight.add(plain(2))
    done: list[str] = []
    for _ in range(60):
        if admitted(tight):
            break
        done += ended(tight)
        assert not any(row.request_id.startswith(too_many) for row in tight.scheduler.running)
    assert admitted(tight)
    assert {in_time, base} <= set(done)
    assert waiting in tight.drain()


def test_a_gang_that_is_aborted_keeps_nothing(tight: WatchedEngine, clock: Clock) -> None:
    for _ in range(7):
        tight.add(plain(9))
    tight.step()
    waiting = tight.add(gang(8))
    tight.step()
    clock.now_s += 3
    tight.step()
    assert tight.scheduler.admission.reservation is not None
    behind = tight.add(plain(2))
    tight.step()
    assert len(tight.scheduler.running) == 7
    tight.abort(waiting)
    tight.step()
    assert len(tight.scheduler.running) == 8
    assert behind in tight.drain()


def test_a_request_that_passed_and_is_preempted_does_not_block_the_gang(
    tight: WatchedEngine, clock: Clock, oracle: Oracle
) -> None:
    """vLLM puts what it preempts at the head of the line, before the gang that came earlier. Each
    of three requests grows from 5 blocks to 6 of 16; the third and the gang of 12 exclude each
    other."""
    jobs = [plain(20, tuple(range(k, k + 150))) for k in (20, 60, 100)]
    jobs.insert(2, gang(6, PROMPT))
    names = [tight.add(job) for job in jobs[:3]]
    done = {out.request_id: out for _ in range(5) for out in tight.step() if out.finished}
    names.append(tight.add(jobs[3]))
    done.update({out.request_id: out for _ in range(3) for out in tight.step() if out.finished})
    assert len(tight.scheduler.running) == 3
    clock.now_s += 3
    preempted = False
    for _ in range(60):
        done.update({out.request_id: out for out in tight.step() if out.finished})
        first = next(iter(tight.scheduler.waiting), None)
        preempted |= first is not None and first.request_id.split("-")[0] == names[3]
    assert preempted
    assert list(done) == [*names[:2], names[2], names[3]]
    answers = [list(done[name].outputs[0].token_ids) for name in names]
    assert count_mismatches(oracle, jobs, answers)[0] == 0


def test_refusing_costs_the_same_however_many_have_passed(
    tight: WatchedEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three run, two pass a gang of six, thirty with adapters wait with three rows free: a step
    looks once at each that passed, not once for each that waits."""
    scheduler, looks = tight.scheduler, Counter[str]()
    is_admitted = scheduler.gangs.is_admitted

    def watched(request: Request) -> bool:
        looks[request.request_id] += 1
        return bool(is_admitted(request))

    monkeypatch.setattr(scheduler.gangs, "is_admitted", watched)
    for _ in range(3):
        tight.add(plain(20))
    tight.step()
    tight.add(gang(6))
    tight.step()
    clock.now_s += 3
    tight.step()
    asks = Job(SHORT, adapter=tight.adapters["polite"], params={"max_tokens": 8})
    for _ in range(30):
        tight.add(asks)
    tight.step()
    assert len(scheduler.running) == 5
    looks.clear()
    tight.step()
    assert len(scheduler.running) == 5
    assert sorted(looks.values()) == [1, 1]


@dataclass(frozen=True)
class Passing:
    """What a reservation knows of a request."""

    request_id: str


def test_the_sums_of_a_reservation_are_those_of_what_passed_and_runs(tight: WatchedEngine) -> None:
    """Compared with adding up everything anew."""
    rng = random.Random(0)
    limits = tight.scheduler.limits
    gang_slots = frozenset({(None, 1)})
    running: dict[str, Need] = {}
    kept = Reservation(
        Gang((), gang_slots, frozenset(), frozenset({None})),
        limits,
        lambda one: one.request_id in running,
    )
    verdicts = Counter[bool]()
    for step in range(300):
        for name in [name for name in running if rng.random() < 0.3]:
            del running[name]
        kept.begin_step()
        for k in range(4):
            slots = frozenset((None, rng.randrange(1, 6)) for _ in range(rng.randrange(3)))
            need = Need(rng.randrange(1, 4), {None: rng.randrange(1, 6)}, slots)
            all_needs = [need, *running.values()]
            fits = (
                sum(one.rows for one in all_needs) <= ROWS
                and sum(one.blocks[None] for one in all_needs) <= 16
                and len(gang_slots.union(*(one.adapters for one in all_needs))) <= 3
            )
            assert kept.lets_pass(need) is fits
            verdicts[fits] += 1
            if fits:
                name = f"{step}.{k}"
                running[name] = need
                kept.count(Passing(name), need)
    assert min(verdicts[True], verdicts[False]) > 100
