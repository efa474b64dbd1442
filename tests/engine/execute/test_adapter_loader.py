"""Adapters are read beside the steps, and leave memory when they are told to."""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vllm.lora.lora_model import LoRAModel
from vllm.lora.request import LoRARequest

from bench.claims.adapter_scale import variants
from composer.engine_plan import LoadedAdapter, Row
from composer.reference.oracle import Oracle
from composer.vllm.execute.adapter_loader import MAX_RETIRED, AdapterLoader, still_loading
from composer.vllm.execute.worker import ComposerWorker
from tests.engine.harness import Job, WatchedEngine, count_mismatches

PROMPT = tuple(range(40, 77))
SLOTS, IN_MEMORY = 3, 4
FIRST_ID = 7000  # apart from those of other engines in this process
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return variants(tmp_path_factory.mktemp("adapters"), 8)


@pytest.fixture(scope="module")
def own_oracle(zoo_base: Path, folders: dict[str, Path]) -> Oracle:
    return Oracle(zoo_base, folders)


@pytest.fixture(scope="module")
def loaded_engine(zoo_base: Path, folders: dict[str, Path]) -> WatchedEngine:
    engine = WatchedEngine(zoo_base, folders, max_loras=SLOTS, max_cpu_loras=IN_MEMORY)
    engine.adapters = {k: replace(a, id=FIRST_ID + a.id) for k, a in engine.adapters.items()}
    return engine


@pytest.fixture
def engine(loaded_engine: WatchedEngine) -> WatchedEngine:
    """Without an adapter in memory."""
    loader = loader_of(loaded_engine)
    for load in loader._loads.values():
        load.future.exception()  # waits
    loader._loads.clear()
    loader._queue.clear()
    loader._retired.clear()
    for id in loaded_engine.resident():
        loaded_engine.core.remove_lora(id)
    assert loaded_engine.resident() == []
    return loaded_engine


def loader_of(engine: WatchedEngine) -> AdapterLoader:
    worker = engine.core.model_executor.driver_worker.worker
    loader = worker._loaders[None]
    assert isinstance(loader, AdapterLoader)
    return loader


def ask(adapter: LoadedAdapter, max_tokens: int = 6) -> Job:
    return Job(PROMPT, adapter=adapter, params={"max_tokens": max_tokens})


def assert_right(engine: WatchedEngine, oracle: Oracle, *jobs: Job) -> None:
    wrong, _ = count_mismatches(oracle, jobs, engine.answers(jobs))
    assert wrong == 0


def in_process() -> set[int]:
    """Ids of the adapters whose weights this process still holds, wherever."""
    gc.collect()
    alive = (thing for thing in gc.get_objects() if isinstance(thing, LoRAModel))
    return {lora.id for lora in alive if lora.id > FIRST_ID}


def copied(adapter: LoadedAdapter, folder: Path, name: str, id: int) -> LoadedAdapter:
    shutil.copytree(adapter.path, folder / name)
    return LoadedAdapter(name, FIRST_ID + id, str(folder / name))


# ---- into memory


def test_the_disk_is_not_needed_any_more(
    engine: WatchedEngine, own_oracle: Oracle, tmp_path: Path
) -> None:
    adapter = copied(engine.adapters["0003"], tmp_path, "0003", 100)
    engine.load([adapter])
    assert engine.resident() == [adapter.id]
    shutil.rmtree(adapter.path)
    assert_right(engine, own_oracle, ask(adapter))
    assert engine.resident() == [adapter.id]


def test_a_loaded_adapter_is_no_mapped_file(engine: WatchedEngine, tmp_path: Path) -> None:
    """Else the pages would be read in the step, and a file cut short would end the process."""
    adapter = copied(engine.adapters["0000"], tmp_path, "float32", 101)
    file = Path(adapter.path) / WEIGHTS
    save_file({name: tensor.float() for name, tensor in load_file(file).items()}, file)
    engine.load([adapter])
    assert adapter.path not in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_a_request_may_come_before_its_adapter_is_loaded(
    engine: WatchedEngine, own_oracle: Oracle
) -> None:
    one, two = engine.adapters["0001"], engine.adapters["0002"]
    engine.prefetch([one, two])
    assert_right(engine, own_oracle, Job(PROMPT, (Row(1.0, one), Row(-0.5, two))), ask(two))
    assert engine.resident() == [one.id, two.id]


class SlowAdapter:
    """An adapter whose loading waits until it is told to go on: its config is a named pipe."""

    def __init__(self, like: LoadedAdapter, folder: Path, name: str, id: int) -> None:
        self.adapter = copied(like, folder, name, id)
        self._pipe = Path(self.adapter.path) / CONFIG
        self._config = self._pipe.read_text(encoding="utf-8")
        self._pipe.unlink()
        os.mkfifo(self._pipe)

    def go_on(self) -> None:
        self._pipe.write_text(self._config, encoding="utf-8")


def test_a_step_waits_for_a_load_that_is_under_way(
    engine: WatchedEngine, own_oracle: Oracle, tmp_path: Path
) -> None:
    slow = SlowAdapter(engine.adapters["0004"], tmp_path, "0004", 102)
    assert engine.prefetch([slow.adapter]) == {slow.adapter.id}
    release = threading.Thread(target=slow.go_on)
    release.start()
    assert_right(engine, own_oracle, ask(slow.adapter))
    release.join()


def test_a_step_does_not_wait_for_loads_in_front_of_its_own(
    engine: WatchedEngine, own_oracle: Oracle, tmp_path: Path
) -> None:
    """Both threads are busy with slow ones."""
    slow = [SlowAdapter(engine.adapters["0004"], tmp_path, f"slow-{k}", 103 + k) for k in range(2)]
    quick = engine.adapters["0005"]
    everything = [*(one.adapter for one in slow), quick]
    assert engine.prefetch(everything) == {adapter.id for adapter in everything}
    assert_right(engine, own_oracle, ask(quick))
    for one in slow:
        one.go_on()
    engine.load(everything)


def test_what_was_asked_for_is_not_pushed_out_next(engine: WatchedEngine) -> None:
    adapters = list(engine.adapters.values())
    for adapter in adapters[:IN_MEMORY]:
        engine.run([ask(adapter, 1)])
    assert engine.prefetch(adapters[:1]) == set()
    engine.run([ask(adapters[4], 1)])
    assert engine.resident() == [adapters[k].id for k in (0, 2, 3, 4)]


def test_what_runs_is_not_pushed_out(
    engine: WatchedEngine, own_oracle: Oracle, tmp_path: Path
) -> None:
    """More adapters pass than fit into memory; without its files it could not come back."""
    adapter = copied(engine.adapters["0003"], tmp_path, "0003", 105)
    long = ask(adapter, 40)
    engine.load([adapter])
    name = engine.add(long)
    done = {out.request_id: out for out in engine.step() if out.finished}
    shutil.rmtree(adapter.path)
    # One batch never holds two adapters of one name: vLLM takes them for the same.
    for other in (a for a in engine.adapters.values() if a.name != adapter.name):
        beside = engine.add(ask(other, 2))
        while beside not in done:
            done.update({out.request_id: out for out in engine.step() if out.finished})
    assert name not in done
    done.update(engine.drain())
    wrong, _ = count_mismatches(own_oracle, [long], [done[name].outputs[0].token_ids])
    assert wrong == 0


def test_loads_that_wait_are_bounded(engine: WatchedEngine, own_oracle: Oracle) -> None:
    """As many as slots; a call that finds room starts whole."""
    adapters = list(engine.adapters.values())
    for adapter in adapters[: SLOTS + 2]:
        engine.prefetch([adapter])
    first = [adapter.id for adapter in adapters[:SLOTS]]
    assert engine.resident() == first
    engine.load(adapters[:SLOTS])
    late = adapters[SLOTS : SLOTS + 3]
    assert engine.prefetch(late) == {adapter.id for adapter in late}
    assert engine.resident() == first
    assert_right(engine, own_oracle, ask(adapters[0]))  # takes its own
    engine.load(late)
    assert len(engine.resident()) == 2 * SLOTS
    assert in_process() == set(engine.resident())
    assert_right(engine, own_oracle, *map(ask, adapters[: SLOTS + 3]))
    assert len(engine.resident()) == IN_MEMORY
    assert in_process() == set(engine.resident())


def test_calls_without_room_start_in_the_order_in_which_they_asked(
    engine: WatchedEngine, own_oracle: Oracle
) -> None:
    adapters = list(engine.adapters.values())
    engine.load(adapters[:SLOTS])
    first, second = adapters[SLOTS], adapters[SLOTS + 1]
    engine.prefetch([first])
    engine.prefetch([second])
    assert_right(engine, own_oracle, ask(adapters[0]))  # takes its load: room for one
    engine.prefetch([second])
    assert second.id not in engine.resident()
    engine.prefetch([first])
    assert first.id in engine.resident()


def test_a_load_that_nobody_takes_makes_room(
    engine: WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = list(engine.adapters.values())
    engine.load(adapters[:SLOTS])
    engine.prefetch(adapters[:1])  # the others are asked for less recently
    assert engine.prefetch([adapters[SLOTS]])
    assert adapters[SLOTS].id not in engine.resident()
    monkeypatch.setattr(loader_of(engine), "_patience_s", 0.0)
    engine.load([adapters[SLOTS]])
    assert engine.resident() == [adapters[k].id for k in (0, 2, 3)]
    assert in_process() == set(engine.resident())


# ---- adapters that cannot be loaded


def cut_short(folder: Path) -> None:
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1000])


def change(folder: Path, **factors: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    """Change A or B of one module."""
    tensors = load_file(folder / WEIGHTS)
    for part, function in factors.items():
        name = f"base_model.model.model.layers.1.mlp.up_proj.lora_{part}.weight"
        changed = function(tensors.pop(name))
        if changed is not None:
            tensors[name] = changed.contiguous()
    save_file(tensors, folder / WEIGHTS)


def no_config(folder: Path) -> None:
    (folder / CONFIG).unlink()


def strange_config(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps({**config, "use_dora": True}), encoding="utf-8")


def absurd_scale(folder: Path) -> None:
    """Its logits are NaN, and so were the answers of others who used its KV blocks next."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps({**config, "lora_alpha": 1e308}), encoding="utf-8")


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "file cut short": (cut_short, "header"),
    "no folder": (shutil.rmtree, "No adapter found"),
    "no config": (no_config, "No adapter found"),
    "another method": (strange_config, "DoRA"),
    "fewer inputs": (
        lambda f: change(f, A=lambda a: a[:, :-8]),
        r"needs \[r, 256\] and \[704, r\]",
    ),
    "more inputs": (lambda f: change(f, A=lambda a: torch.cat([a, a], 1)), r"A \[16, 512\]"),
    "fewer outputs": (lambda f: change(f, B=lambda b: b[:-8]), r"B \[696, 16\]"),
    "other ranks": (lambda f: change(f, A=lambda a: a[:-8]), r"A \[8, 256\] and B \[704, 16\]"),
    "large rank": (
        lambda f: change(f, A=lambda a: torch.cat([a, a]), B=lambda b: torch.cat([b, b], 1)),
        "r of at most 16",
    ),
    "not a number": (lambda f: change(f, A=lambda a: a.fill_(math.nan)), "A of .* reaches nan"),
    "infinite": (lambda f: change(f, B=lambda b: b.fill_(math.inf)), "B of .* reaches inf"),
    "absurd": (lambda f: change(f, B=lambda b: b.fill_(1e6)), "more than 65504"),
    "absurd scale": (absurd_scale, "more than 65504"),
    "one factor": (lambda f: change(f, B=lambda b: None), "one factor only"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_adapter_is_named_and_the_engine_lives(
    how: str, engine: WatchedEngine, own_oracle: Oracle, tmp_path: Path
) -> None:
    good = engine.adapters["0006"]
    bad = copied(engine.adapters["0001"], tmp_path, "0001", 110)
    damage, reason = BROKEN[how]
    damage(Path(bad.path))
    for _ in range(2):  # told once, forgotten, and found again
        with pytest.raises(ValueError, match=f"adapter '0001' .*{bad.path}.*(?:{reason})"):
            engine.load([good, bad])
    assert_right(engine, own_oracle, ask(good))
    assert engine.resident() == [good.id]
    shutil.rmtree(bad.path, ignore_errors=True)
    shutil.copytree(engine.adapters["0001"].path, bad.path)  # mended
    engine.load([bad])
    assert_right(engine, own_oracle, ask(bad), Job(PROMPT, (Row(1.0), Row(0.5, bad))))
    engine.assert_nothing_left()


def test_answers_of_several_workers() -> None:
    assert still_loading([[], []]) == set()
    assert still_loading([[[3, ""]], [], [[3, ""], [5, ""]]]) == {3, 5}
    with pytest.raises(ValueError, match="adapter 'x' is broken"):
        still_loading([[[3, ""]], [[5, "adapter 'x' is broken"]]])


def test_an_engine_without_adapters_says_so(
    engine: WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = engine.core.model_executor.driver_worker.worker
    assert isinstance(worker, ComposerWorker)
    monkeypatch.setattr(worker, "_loaders", {})
    with pytest.raises(ValueError, match="--enable-lora"):
        engine.prefetch([engine.adapters["0000"]])
    engine.retire(engine.adapters["0000"])
    assert engine.resident() == []


def test_workers_push_out_the_same_adapters(engine: WatchedEngine) -> None:
    """Each worker of a tensor-parallel group has hashes of its own, by which the adapters of a step
    come in another order. Here other names make other hashes."""
    loader = loader_of(engine)
    known = [engine.adapters[name] for name in ("0000", "0001", "0002", "0003", "0004")]
    memories = set()
    for worker in range(8):
        a, b, c, d, e = (LoRARequest(f"{worker}-{k.name}", k.id, k.path) for k in known)
        memory = []
        for step in ({a, b, c}, {a, b, c}, {d}, {e, d}):
            loader._set_active(step, None)
            slots = tuple(loader._models.lora_index_to_id)
            memory.append((slots, tuple(loader._models._registered_adapters)))
        memories.add(tuple(memory))
        for id in engine.resident():
            engine.core.remove_lora(id)
    assert len(memories) == 1


# ---- out of memory


@pytest.mark.parametrize("state", ["never seen", "loading", "loaded", "used"])
def test_an_idle_adapter_leaves_at_once(state: str, engine: WatchedEngine) -> None:
    adapter = engine.adapters["0000"]
    if state == "loading":
        engine.prefetch([adapter])
    elif state != "never seen":
        engine.load([adapter])
    if state == "used":
        engine.run([ask(adapter)])
        engine.assert_nothing_left()  # one more step: the runner learns that the request has ended
    engine.retire(adapter)
    assert engine.resident() == []
    slots = loader_of(engine)._models.lora_index_to_id
    assert adapter.id not in slots


def test_a_retired_adapter_stays_for_its_requests(
    engine: WatchedEngine, own_oracle: Oracle
) -> None:
    """The longest decides; others come and go, one is aborted."""
    adapter, other = engine.adapters["0001"], engine.adapters["0002"]
    jobs = [ask(adapter, 4), Job(PROMPT, (Row(1.0), Row(0.5, adapter)), params={"max_tokens": 12})]
    names = [engine.add(job) for job in jobs]
    aborted = engine.add(ask(adapter, 50))
    done = {out.request_id: out for out in engine.step() if out.finished}
    engine.retire(adapter)
    assert adapter.id in engine.resident()
    rival = engine.add(ask(other, 3))
    engine.abort(aborted)
    while len(done) < 3:
        assert adapter.id in engine.resident() or names[1] in done
        done.update({out.request_id: out for out in engine.step() if out.finished})
    answers = [list(done[name].outputs[0].token_ids) for name in [*names, rival]]
    wrong, _ = count_mismatches(own_oracle, [*jobs, ask(other, 3)], answers)
    assert wrong == 0
    engine.assert_nothing_left()
    assert engine.resident() == [other.id]
    assert in_process() == {other.id}


def test_a_request_that_comes_too_late_loads_it_once_more(
    engine: WatchedEngine, own_oracle: Oracle
) -> None:
    """As one that waited in the scheduler: the model runner had not seen it."""
    adapter = engine.adapters["0003"]
    for _ in range(2):
        name = engine.add(ask(adapter))
        engine.retire(adapter)
        out = engine.drain()[name]
        wrong, _ = count_mismatches(own_oracle, [ask(adapter)], [out.outputs[0].token_ids])
        assert wrong == 0
        engine.assert_nothing_left()
        assert engine.resident() == []


def test_prefetching_ends_retirement(engine: WatchedEngine) -> None:
    """A generation that was rolled back to is as good as any other."""
    adapter = engine.adapters["0003"]
    name = engine.add(ask(adapter, 8))
    engine.step()
    engine.retire(adapter)
    assert engine.prefetch([adapter]) == set()
    assert name in engine.drain()
    engine.assert_nothing_left()
    assert engine.resident() == [adapter.id]


def test_what_is_remembered_of_retired_adapters_is_bounded(engine: WatchedEngine) -> None:
    loader = loader_of(engine)
    running = engine.adapters["0000"]
    engine.add(ask(running, 8))
    engine.step()
    engine.retire(running)
    for id in range(FIRST_ID + 1000, FIRST_ID + 1000 + 2 * MAX_RETIRED):
        loader.retire(id)
    assert len(loader._retired) <= MAX_RETIRED + IN_MEMORY
    engine.drain()
    engine.assert_nothing_left()
    assert engine.resident() == []  # not forgotten while it is in memory
