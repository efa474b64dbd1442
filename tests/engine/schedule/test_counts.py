"""What operators see counts requests that clients sent, and calls adapters as they do."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from composer.engine_plan import Row, Switch
from composer.vllm.schedule.counts import BUCKETS_S, ClientCounts, alias_of, aliases
from tests.engine.harness import Job, WatchedEngine

MakeJob = Callable[[random.Random, WatchedEngine], Job]
PROMPT = tuple(range(40, 77))


def counts(engine: WatchedEngine) -> ClientCounts:
    scheduler = engine.scheduler
    return ClientCounts.of(
        scheduler.requests.values(),
        scheduler.running,
        scheduler.deferred_waiting,
        scheduler.gangs.by_leader.values(),
    )


def figures(engine: WatchedEngine) -> dict[str, object]:
    [told] = engine.core.collective_rpc("composer_stats")
    return dict(told)


def test_every_request_is_counted_once(tight: WatchedEngine, make_job: MakeJob) -> None:
    """Under pressure, with gangs at all stages of their life."""
    rng = random.Random(3)
    waiting = [make_job(rng, tight) for _ in range(30)]
    unfinished: set[str] = set()
    while waiting or unfinished:
        for _ in range(rng.choice([0, 1, 4])):
            if waiting:
                unfinished.add(tight.add(waiting.pop()))
        unfinished -= {out.request_id for out in tight.step() if out.finished}
        now = counts(tight)
        assert now.running + now.waiting + now.deferred == len(unfinished)
        assert min(now.running, now.waiting, now.deferred) >= 0
        gangs = tight.scheduler.gangs.by_leader.values()
        plain = [
            r for r in tight.scheduler.running if r.request_id not in tight.scheduler.gangs.by_row
        ]
        assert now.running == len(plain) + sum(gang.admitted for gang in gangs)
    tight.assert_nothing_left()


def test_gangs_that_wait_and_how_long(
    tight: WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 50.0
    monkeypatch.setattr(tight.scheduler.admission, "clock", lambda: now_s)
    tight.step()
    before = figures(tight)["gang_waits"]
    rows = (Row(1.0), *(Row(0.1) for _ in range(4)))
    for _ in range(2):  # 5 of 8 rows each
        tight.add(Job(PROMPT[:4], rows, params={"max_tokens": 9}))
    tight.step()
    assert counts(tight) == ClientCounts(running=1, waiting=0, deferred=1)
    tight.step()
    told = figures(tight)
    assert (told["rows_running"], told["gangs_waiting"]) == (5, 1)
    now_s += 2.0
    tight.drain()
    tight.assert_nothing_left()
    told = figures(tight)
    assert (told["rows_running"], told["gangs_waiting"]) == (0, 0)
    waits = told["gang_waits"]
    assert isinstance(before, dict)
    assert isinstance(waits, dict)
    assert waits["count"] - before["count"] == 2
    assert waits["sum_s"] - before["sum_s"] == pytest.approx(2.0)
    more = {bound: waits["buckets"][bound] - before["buckets"][bound] for bound in waits["buckets"]}
    assert list(more) == [*map(str, BUCKETS_S), "+Inf"]
    assert (more["1.0"], more["3.0"], more["+Inf"]) == (1, 2, 2)


def test_preemptions_are_counted(tight: WatchedEngine) -> None:
    preempted = tight.watch.preempted_gangs
    before = figures(tight)["gang_preemptions"]
    for k in range(4):
        rows = (Row(1.0), Row(0.1, None, tuple(range(20 + k, 60 + k))))
        tight.add(Job(PROMPT, rows, params={"max_tokens": 90}))
    tight.drain()
    tight.assert_nothing_left()
    told = figures(tight)["gang_preemptions"]
    assert isinstance(told, int)
    assert isinstance(before, int)
    assert told - before == tight.watch.preempted_gangs - preempted > 0


def test_adapters_have_the_names_that_people_use(roomy: WatchedEngine) -> None:
    use = roomy.adapters
    roomy.add(Job(PROMPT, adapter=use["chat"], params={"max_tokens": 3}))
    roomy.add(Job(PROMPT, (Row(1.0, use["chat"]), Row(-1.0, use["rude"]), Row(0.5, use["rude"]))))
    roomy.add(Job(PROMPT, switch=Switch((use["velan"], None), triggers=(5,))))
    roomy.step()
    scheduler = roomy.scheduler
    plain = [row for row in scheduler.running if row.request_id not in scheduler.gangs.by_row]
    found = aliases(plain, scheduler.gangs.by_leader.values())
    assert found == {"chat": 2, "rude": 1, "velan": 1}
    roomy.drain()
    assert alias_of("polite@19d42dd727f5") == "polite"
    assert alias_of("a@b") == "a@b"
    assert alias_of("small:chat@0123456789ab") == "small:chat"
