"""What cannot be loaded in the middle of a step ends the requests that need it, nothing else.

An adapter was loaded, was pushed out of memory by others, and its files are gone when a step needs
it again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from vllm.sampling_params import RequestOutputKind
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.engine import FinishReason

from bench.claims.adapter_scale import variants
from bench.streams import without_streams
from composer.engine_plan import EnginePlan, LoadedAdapter, Row, Switch
from composer.reference.oracle import Oracle, Weights
from tests.engine.harness import Job, WatchedEngine, count_mismatches

PROMPT = tuple(range(40, 110))  # two whole blocks and a part
OTHER = tuple(range(110, 160))
SLOTS, IN_MEMORY = 3, 4
ERROR = str(FinishReason.ERROR)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return variants(tmp_path_factory.mktemp("adapters"), 6)


@pytest.fixture(scope="module")
def oracle(zoo_base: Path, folders: dict[str, Path], small: dict[str, Weights]) -> Oracle:
    return Oracle(zoo_base, folders, small)


@pytest.fixture(scope="module")
def small(zoo_small: Path, zoo_small_adapters: dict[str, Path]) -> dict[str, Weights]:
    return {"small": (zoo_small, zoo_small_adapters)}


@pytest.fixture(scope="module", params=["sync", "async"])
def loaded_engine(
    request: pytest.FixtureRequest,
    zoo_base: Path,
    folders: dict[str, Path],
    small: dict[str, Weights],
) -> Iterator[WatchedEngine]:
    with without_streams():
        engine = WatchedEngine(
            zoo_base,
            folders,
            asynchronous=request.param == "async",
            kv_blocks=64,  # so that blocks are soon used again
            max_loras=SLOTS,
            max_cpu_loras=IN_MEMORY,
            auxiliaries=small,
        )
        first = 8000 if request.param == "sync" else 8500  # apart from those of other engines
        engine.adapters = {k: replace(a, id=first + a.id) for k, a in engine.adapters.items()}
        yield engine


@pytest.fixture
def engine(loaded_engine: WatchedEngine) -> WatchedEngine:
    loaded_engine.forget_prefixes()
    return loaded_engine


class Lost:
    """A copy of an adapter whose files are gone, and that is not in memory any more."""

    def __init__(self, engine: WatchedEngine, folder: Path, like: str) -> None:
        self._original = engine.adapters[like]
        self.adapter = LoadedAdapter(like, self._original.id + 100, str(folder / like))
        self.restore()
        engine.answers([Job(OTHER, adapter=self.adapter, params={"max_tokens": 2})])
        for other in engine.adapters.values():
            if other.name != like:
                engine.answers([Job(OTHER, adapter=other, params={"max_tokens": 1})])
        assert self.adapter.id not in engine.resident()
        shutil.rmtree(self.adapter.path)

    def restore(self) -> None:
        shutil.copytree(self._original.path, self.adapter.path)


def test_an_adapter_that_is_gone_ends_its_requests_only(
    engine: WatchedEngine, oracle: Oracle, tmp_path: Path
) -> None:
    lost = Lost(engine, tmp_path, "0003")
    bad, good = lost.adapter, engine.adapters["0001"]
    every_token = {"max_tokens": 6, "output_kind": RequestOutputKind.CUMULATIVE}
    failing = [
        Job(PROMPT, adapter=bad, params=every_token),
        Job(PROMPT, (Row(1.0), Row(0.5, bad), Row(-0.5, good)), params=every_token),
        Job(PROMPT, (Row(1.0, bad), Row(0.5)), params=every_token),
        Job(PROMPT, adapter=bad, params=every_token | {"prompt_logprobs": 1, "logprobs": 1}),
        Job(PROMPT, switch=Switch((None, bad), triggers=(5,)), params=every_token),
    ]
    fine = [
        Job(PROMPT, params={"max_tokens": 6}),
        Job(PROMPT, adapter=good, params={"max_tokens": 6}),
        Job(PROMPT, (Row(1.0), Row(0.7, good)), params={"max_tokens": 6}),
    ]
    running = engine.add(fine[0])
    engine.step()  # one that has begun before
    names = [engine.add(job) for job in failing]
    others = [running, *map(engine.add, fine[1:])]
    done = {}
    while engine.engine.has_unfinished_requests():
        for out in engine.step():
            if out.request_id in names:
                assert not out.outputs[0].token_ids
                assert out.finished
            if out.finished:
                done[out.request_id] = out
    assert [done[name].outputs[0].finish_reason for name in names] == [ERROR] * len(names)
    answers = [list(done[name].outputs[0].token_ids) for name in others]
    wrong, _ = count_mismatches(oracle, fine, answers)
    assert wrong == 0
    assert bad.id not in engine.resident()
    engine.assert_nothing_left()

    # The files are back: the same prompts do not meet what was computed without the adapter.
    lost.restore()
    again = [replace(job, params={"max_tokens": 6}) for job in failing[:3]]
    wrong, _ = count_mismatches(oracle, again, engine.answers(again))
    assert wrong == 0
    engine.assert_nothing_left()


@pytest.mark.parametrize(
    ("loaded_engine", "how"),
    # Without async scheduling a step ends before the next one is scheduled, which could preempt.
    [("sync", "aborted"), ("async", "aborted"), ("async", "preempted")],
    indirect=["loaded_engine"],
)
def test_a_row_that_left_during_the_step_poisons_no_prefix(
    how: str, engine: WatchedEngine, oracle: Oracle, tmp_path: Path
) -> None:
    """vLLM gives blocks their keys when it schedules a step, and handles aborts after it has run;
    under async scheduling the row may also be preempted for the next step. By then it holds no
    block, and what is in those that it held was computed without its adapter."""
    lost = Lost(engine, tmp_path, "0003")
    job = Job(PROMPT, adapter=lost.adapter, params={"max_tokens": 6})
    name = engine.add(job)
    scheduler = engine.scheduler
    [row] = scheduler.requests.values()
    if how == "aborted":
        engine.core.aborts_queue.put_nowait([row.request_id])
        engine.step()
    else:
        engine.step()  # in flight
        scheduler.set_pause_state(PauseState.PAUSED_NEW)  # it does not run in the next one
        scheduler.running.remove(row)
        scheduler._preempt_request(row, time.monotonic())
        engine.step()
        scheduler.set_pause_state(PauseState.UNPAUSED)
    engine._land()
    assert row.is_finished()
    engine.abort(name)  # what the front end keeps of one that the engine core has aborted
    engine.assert_nothing_left()

    lost.restore()
    wrong, _ = count_mismatches(oracle, [job], engine.answers([job]))
    assert wrong == 0
    engine.assert_nothing_left()


def test_a_file_that_is_damaged_is_as_good_as_gone(
    engine: WatchedEngine, oracle: Oracle, tmp_path: Path
) -> None:
    lost = Lost(engine, tmp_path, "0002")
    lost.restore()
    weights = Path(lost.adapter.path) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    fine = Job(PROMPT, adapter=engine.adapters["0001"], params={"max_tokens": 4})
    bad, good = engine.add(Job(PROMPT, adapter=lost.adapter)), engine.add(fine)
    done = engine.drain()
    assert done[bad].outputs[0].finish_reason == ERROR
    wrong, _ = count_mismatches(oracle, [fine], [list(done[good].outputs[0].token_ids)])
    assert wrong == 0
    engine.assert_nothing_left()


def test_another_adapter_of_the_same_name(
    engine: WatchedEngine, oracle: Oracle, tmp_path: Path
) -> None:
    """No front end of ours sends that: one name has one number. To vLLM the two are the same."""
    good = engine.adapters["0001"]
    other = LoadedAdapter("0001", good.id + 300, str(tmp_path))
    fine = Job(PROMPT, (Row(1.0), Row(0.7, good)), params={"max_tokens": 6})
    running = engine.add(fine)
    engine.step()
    foreign = engine.add(Job(PROMPT, (Row(1.0), Row(0.7, other))))
    done = engine.drain()
    assert done[foreign].outputs[0].finish_reason == ERROR
    wrong, _ = count_mismatches(oracle, [fine], [list(done[running].outputs[0].token_ids)])
    assert wrong == 0
    engine.assert_nothing_left()


def test_an_absurd_adapter_leaves_nothing_in_the_kv_cache(
    engine: WatchedEngine, oracle: Oracle, tmp_path: Path
) -> None:
    """Its keys and values would be NaN. vLLM's kernels multiply all slots of a block, those that
    are not filled yet by a weight of zero, which makes NaN of NaN: answers of others that use its
    blocks next were wrong."""
    lost = Lost(engine, tmp_path, "0002")
    lost.restore()
    config = Path(lost.adapter.path) / "adapter_config.json"
    absurd = {**json.loads(config.read_text(encoding="utf-8")), "lora_alpha": 1e308}
    config.write_text(json.dumps(absurd), encoding="utf-8")
    prompts = [tuple((k * 7 + i) % 400 + 20 for i in range(150)) for k in range(40)]
    bad = [Job(prompt, adapter=lost.adapter) for prompt in prompts]  # all blocks, several times
    finished = [out.outputs[0].finish_reason for out in engine.run(bad)]
    engine.forget_prefixes()
    good = engine.adapters["0001"]
    fine = [
        Job(prompt[:20], rows, params={"max_tokens": 4})
        for prompt in prompts
        for rows in (None, (Row(1.0), Row(0.5, good)))
    ]
    wrong, _ = count_mismatches(oracle, fine, engine.answers(fine))
    assert wrong == 0
    assert finished == [ERROR] * len(bad)
    engine.assert_nothing_left()


def test_an_adapter_of_an_auxiliary_model_that_is_gone(
    engine: WatchedEngine, oracle: Oracle, tmp_path: Path
) -> None:
    """It was never loaded."""
    own = next(iter(engine.auxiliary_adapters["small"].values()))
    gone = LoadedAdapter("gone", own.id + 900, str(tmp_path / "gone"))

    def job(adapter: LoadedAdapter | None) -> Job:
        rows = EnginePlan.led((Row(1.0), Row(0.8, adapter, None, "small"))).rows
        return Job(PROMPT, rows, params={"max_tokens": 5})

    fine = [job(own), job(None)]
    bad = engine.add(job(gone))
    names = [engine.add(one) for one in fine]
    done = engine.drain()
    assert done[bad].outputs[0].finish_reason == ERROR
    answers = [list(done[one].outputs[0].token_ids) for one in names]
    wrong, _ = count_mismatches(oracle, fine, answers)
    assert wrong == 0
    engine.assert_nothing_left()


@pytest.mark.parametrize("how", ["gone", "no gate"])
def test_a_gate_that_cannot_be_read(
    how: str, engine: WatchedEngine, oracle: Oracle, tmp_path: Path
) -> None:
    path = tmp_path / "gate.safetensors"
    if how == "no gate":
        shutil.copy(Path(engine.adapters["0001"].path) / "adapter_model.safetensors", path)
    candidates = (None, engine.adapters["0001"])
    switch = Switch(candidates, gate=str(path), classes=(0, 1))
    fine = Job(PROMPT, (Row(1.0), Row(0.7, engine.adapters["0002"])), params={"max_tokens": 4})
    bad, good = engine.add(Job(PROMPT, switch=switch)), engine.add(fine)
    done = engine.drain()
    assert done[bad].outputs[0].finish_reason == ERROR
    wrong, _ = count_mismatches(oracle, [fine], [list(done[good].outputs[0].token_ids)])
    assert wrong == 0
    engine.assert_nothing_left()
