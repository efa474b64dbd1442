"""What we rely on in vLLM is still there, and what we work around is still needed."""

from __future__ import annotations

import inspect
import os
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.sample.logits_processor import LogitsProcessor

from composer.engine_plan import ENGINE_ARG, EnginePlan, Row
from composer.reference.oracle import Oracle
from composer.vllm.compat import check_engine
from composer.vllm.execute.v1.composition_processor import CompositionProcessor
from composer.vllm.execute.worker import ComposerWorker
from composer.vllm.options import engine_options, prepare_environment
from composer.vllm.schedule.gang_scheduler import SyncGangScheduler
from composer.vllm.schedule.kv_cache.kv_pools import RoutedKVCache
from composer.vllm.seams.breaks import TABLES, breaks, changed, read
from composer.vllm.seams.imports import missing_imports
from composer.vllm.workarounds.cpu_lora import AdapterwisePunica
from tests.engine.harness import Job, WatchedEngine, count_mismatches

_spec = find_spec("vllm")
assert _spec is not None
assert _spec.origin is not None
VLLM = Path(_spec.origin).parent
PROMPT = tuple(range(40, 77))


@pytest.mark.parametrize("table", TABLES)
def test_the_seams_are_those_of_the_installed_vllm(table: str) -> None:
    assert changed(table)
    assert read(table)
    assert list(breaks(VLLM, table)) == []


def test_a_release_that_differs_is_told_by_name(tmp_path: Path) -> None:
    for file in {*changed("v2"), *read("v2")}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text((VLLM / file).read_text())
    runner = tmp_path / "v1/worker/gpu/model_runner.py"
    runner.write_text(
        runner.read_text().replace("def sample(\n        self,", "def sample(self, more,")
    )
    (tmp_path / "v1/worker/gpu/lora_utils.py").unlink()
    told = list(breaks(tmp_path, "v2"))
    assert "v1/worker/gpu/lora_utils.py is gone" in told
    assert any("GPUModelRunner.sample is (self, more" in line for line in told)


STUB = """
@complete
class A:
    x
    def f(self, request: Request) -> int: ...
    def f(self, request: Request, more: int = 0) -> int: ...

@complete
class B:
    kept: int

@optional
class B:
    moved: int
"""

INSTALLED = """
class A(ABC):
    def __init__(self) -> None:
        self.x = 1
    def f(self, request: Request) -> int: ...
class B:
    kept: int
"""


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("", "", []),
        ("request: Request)", "request: Request, more: int = 0)", []),
        ("kept: int", "kept: int\n    moved: int", []),
        (
            "request: Request)",
            "request: Request, more: int)",
            [
                "a.py: A.f is (self, request: Request, more: int) -> int, and was (self, request: "
                "Request) -> int or (self, request: Request, more: int=0) -> int"
            ],
        ),
        ("self.x", "self.y", ["a.py: A.x is gone"]),
        ("kept: int", "moved: int", ["a.py: B.kept is gone"]),
        ("kept: int", "kept: int\n    more: int", ["a.py: B.more is new"]),
        (
            "    def f",
            "    @abstractmethod\n    def g(self) -> int: ...\n    def f",
            ["a.py: A.g is new"],
        ),
    ],
)
def test_what_a_release_changes_is_told(
    before: str, after: str, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text(INSTALLED.replace(before, after, 1))
    monkeypatch.setitem(TABLES, "stub", SimpleNamespace(CHANGED={"a.py": STUB}, READ={}))
    assert list(breaks(tmp_path, "stub")) == told


def test_what_has_moved_is_found_in_either_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = {"old.py or new.py": (("def f(x)", "def f(x, y)"), "z = 1")}
    monkeypatch.setitem(TABLES, "stub", SimpleNamespace(CHANGED={}, READ=read))
    (tmp_path / "new.py").write_text("def f(x, y): ...\nz = 1")
    assert list(breaks(tmp_path, "stub")) == []
    (tmp_path / "new.py").write_text("def f(x, z): ...\nz = 2")
    assert list(breaks(tmp_path, "stub")) == [
        "old.py or new.py: no longer contains 'def f(x)' or 'def f(x, y)'",
        "old.py or new.py: no longer contains 'z = 1'",
    ]


def test_every_name_that_is_imported_from_vllm_is_there(tmp_path: Path) -> None:
    assert list(missing_imports(VLLM)) == []
    (tmp_path / "config").mkdir()
    (tmp_path / "config/__init__.py").write_text("class VllmConfig: ...")
    told = list(missing_imports(tmp_path))
    assert not any("vllm.config VllmConfig" in line for line in told)
    assert "composer/vllm/execute/worker.py: vllm.lora.request has no LoRARequest" in told


def replaced(ours: type, theirs: type) -> list[tuple[str, Any, Any]]:
    """The methods of a class of ours that stand in for vLLM's."""
    return [
        (name, method, getattr(theirs, name))
        for name, method in vars(ours).items()
        if inspect.isfunction(method) and callable(getattr(theirs, name, None))
    ]


@pytest.mark.parametrize(
    ("ours", "theirs", "at_least"),
    [
        (SyncGangScheduler.__mro__[1], Scheduler, 10),
        (RoutedKVCache, KVCacheManager, 10),
        (ComposerWorker, ComposerWorker.__mro__[1], 7),
        (CompositionProcessor, LogitsProcessor, 3),
        (AdapterwisePunica, PunicaWrapperCPU, 4),
    ],
)
def test_what_stands_in_for_vllm_takes_the_same_arguments(
    ours: type, theirs: type, at_least: int
) -> None:
    """vLLM may call with all of them, by position or by name."""
    methods = [one for one in replaced(ours, theirs) if not one[0].startswith("__")]
    assert len(methods) >= at_least
    for name, method, original in methods:
        parameters = list(inspect.signature(original).parameters.values())
        plain = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        by_name = [p for p in plain if p.kind is p.KEYWORD_ONLY]
        by_place = [p for p in plain if p.kind is not p.KEYWORD_ONLY]
        signature = inspect.signature(method)
        bound = signature.bind(*by_place, **{p.name: p for p in by_name})
        for place, value in bound.arguments.items():
            kind = signature.parameters[place].kind
            if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
                assert value.name == place, f"{ours.__name__}.{name}"


def test_cpu_lora_kernels_still_need_our_fix() -> None:
    """When this fails, delete composer/vllm/workarounds/cpu_lora.py."""
    source = (VLLM / "lora/ops/torch_ops/lora_ops.py").read_text()
    assert "selected_loras = lora_b_weights[lora_indices_tensor]" in source


def test_cpu_generators_still_need_our_rewinding() -> None:
    """When this fails, delete composer/vllm/workarounds/cpu_generator.py."""
    with pytest.raises(RuntimeError, match="does not use offset"):
        torch.Generator().set_offset(0)


def test_logprobs_of_a_plain_prompt_beside_composed_requests(
    roomy: WatchedEngine, oracle: Oracle
) -> None:
    """vLLM's CPU kernels fail here once the batch holds several requests: see cpu_lora."""
    polite = roomy.adapters["polite"]
    plain = Job(PROMPT, params={"prompt_logprobs": 1, "max_tokens": 4})
    jobs = [Job(PROMPT, (Row(1.0), Row(0.5, polite))), plain, Job(PROMPT, adapter=polite), plain]
    outputs = roomy.run(jobs)
    expected = oracle.logits(None, PROMPT).log_softmax(-1)
    for output in (outputs[1], outputs[3]):
        assert output.prompt_logprobs is not None
        for position, shown in enumerate(output.prompt_logprobs[1:]):
            assert shown is not None
            logprob = shown[PROMPT[position + 1]].logprob
            assert logprob == pytest.approx(
                float(expected[position, PROMPT[position + 1]]), abs=1e-3
            )


def test_base_rows_beside_a_full_set_of_adapters(roomy: WatchedEngine, oracle: Oracle) -> None:
    """Stock vLLM 0.32 gives base rows the adapter in the last slot here: see cpu_lora."""
    names = ["polite", "rude", "chat", "velan"]  # as many as there are slots
    jobs = [Job(PROMPT, adapter=roomy.adapters[name]) for name in names] + [Job(PROMPT)] * 2
    wrong, _ = count_mismatches(oracle, jobs, roomy.answers(jobs))
    assert wrong == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
            "speculative decoding",
        ),
        (
            {"kv_transfer_config": {"kv_connector": "OffloadingConnector", "kv_role": "kv_both"}},
            "KV cache connectors",
        ),
        ({"prefill_schedule_interval": 3}, "prefill schedule interval of 3"),
    ],
)
def test_settings_that_break_gangs_are_refused_at_start(
    options: dict[str, Any], message: str, zoo_base: Path
) -> None:
    config = EngineArgs(model=str(zoo_base), **options).create_engine_config()
    with pytest.raises(ValueError, match=message):
        check_engine(config)


def test_batch_sharded_sampling_is_refused_at_start(zoo_base: Path) -> None:
    """It needs two ranks on the V2 model runner; on V1 vLLM refuses it."""
    config = EngineArgs(model=str(zoo_base)).create_engine_config()
    config.parallel_config.enable_batch_sharded_sampling = True
    with pytest.raises(ValueError, match="drop --enable-batch-sharded-sampling"):
        check_engine(config)


@pytest.mark.parametrize(
    ("asked", "given", "chosen"),
    [
        ("auto", None, "v1"),  # PyTorch here has no CUDA
        ("auto", "0", "v1"),
        ("auto", "1", "v2"),
        ("v1", None, "v1"),
        ("v2", None, "v2"),
        ("v2", "1", "v2"),
    ],
)
def test_the_model_runner_is_always_chosen_explicitly(
    asked: str,
    given: str | None,
    chosen: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "triton.py").touch()  # V1's tests run without
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER")
    if given is not None:
        monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", given)
    assert prepare_environment(asked) == chosen
    assert os.environ["VLLM_USE_V2_MODEL_RUNNER"] == {"v1": "0", "v2": "1"}[chosen]
    [processor] = engine_options()["logits_processors"]
    assert f".{chosen}." in processor


@pytest.mark.parametrize(("asked", "given"), [("v1", "1"), ("v2", "0"), ("auto", "yes")])
def test_a_contradiction_about_the_model_runner_is_refused(
    asked: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", given)
    with pytest.raises(ValueError, match=f"is set to {given}, and the model runner to {asked}"):
        prepare_environment(asked)


def test_v2_without_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("composer.vllm.options.find_spec", lambda name: None)
    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER")
    with pytest.raises(ValueError, match=r"V2 model runner needs Triton.*--model-runner v1"):
        prepare_environment("v2")
    assert prepare_environment("auto") == "v1"


@pytest.mark.parametrize("release", ["0.31.1", "0.32.1", "0.34.0", "0.33.0rc1"])
def test_an_unsupported_release_is_refused(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("composer.vllm.options.installed_release", lambda: release)
    with pytest.raises(ValueError, match=rf"vLLM {release} is installed, and 0\.32\.0 and 0\.33"):
        prepare_environment()


def test_a_row_of_the_engine_is_a_request_of_vllm(roomy: WatchedEngine) -> None:
    """The plan reaches the scheduler as it was sent, and leaves nothing in shared parameters."""
    adapter = roomy.adapters["polite"]
    name = roomy.add(Job(PROMPT, (Row(1.0), Row(0.5, adapter, (7, 8)))))
    [gang] = roomy.scheduler.gangs.by_leader.values()
    assert gang.leader.request_id.startswith(name)
    assert [row.prompt_token_ids for row in gang.rows] == [list(PROMPT), [7, 8]]
    assert gang.companions[0].lora_request.lora_name == adapter.name
    roomy.abort(name)
    roomy.assert_nothing_left()


def test_front_end_and_scheduler_parse_the_plan_once_each(
    roomy: WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The front end refuses malformed plans. Workers and tensors get the rows that the
    scheduler has parsed, in the order of the plan."""
    texts: list[str] = []
    parse = EnginePlan.from_extra_args

    def counted(extra: dict[str, Any] | None) -> EnginePlan | None:
        texts.extend([extra[ENGINE_ARG]] if extra and ENGINE_ARG in extra else [])
        return parse(extra)

    monkeypatch.setattr(EnginePlan, "from_extra_args", staticmethod(counted))
    rows = (Row(1.0), Row(0.5, roomy.adapters["polite"]), Row(-0.5, None, (7, 8)))
    name = roomy.add(Job(PROMPT, rows, params={"max_tokens": 4}))
    roomy.step()
    tags = roomy.worker._views[None].tags.by_row
    assert sorted(tag.index for tag in tags.values()) == [0, 1, 2]
    assert [t.weights for t in tags.values() if t.index == 0] == [(1.0, 0.5, -0.5)]
    assert name in roomy.drain()
    assert len(texts) == 2
