"""The whole server on vLLM's V2 model runner, with the engine and its workers in their own
processes. Triton's interpreter computes its kernels: `make test-all` installs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from composer.engine_plan import MixtureParameters
from composer.reference.mixture_oracle import mixed, mixed_mismatches
from composer.reference.oracle import TIE, Oracle, OracleRow, Weights
from tests.support.live_server import ROOT, LiveServer, serving

INTERPRETER = Path(sys.prefix) / "interpreter"
SITE = ROOT / "tests" / "support" / "interpreter"
CORES = sorted(os.sched_getaffinity(0))[:2]
PROMPT = tuple(range(40, 77))
ANSWER = 12

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not INTERPRETER.is_dir(), reason=f"make {INTERPRETER} installs Triton"),
]

PROXY: dict[str, Any] = {
    "recipe": "proxy_tuning",
    "base": "base",
    "expert": "small:polite",
    "anti_expert": "small",
    "alpha": 0.8,
}
MIXTURE: dict[str, Any] = {
    "recipe": "mixture",
    "experts": ["polite", "chat"],
    "router": {"kind": "posterior", "prompt": False},
}
ROUTER = MixtureParameters(fixed=0.0, posterior=1.0, prompt=False)

SUMS: dict[str, tuple[dict[str, Any], list[tuple[float, str | None, str | None]]]] = {
    "plain": ({"model": "base"}, [(1.0, None, None)]),
    "adapter": ({"model": "polite"}, [(1.0, "polite", None)]),
    "formula": (
        {"model": "base + 0.8*polite - 0.3*chat"},
        [(1.0, None, None), (0.8, "polite", None), (-0.3, "chat", None)],
    ),
    "auxiliary": (
        {"model": "base", "composition": PROXY},
        [(1.0, None, None), (0.8, "polite", "small"), (-0.8, None, "small")],
    ),
}
MIXED = [OracleRow(0.5, "polite", PROMPT), OracleRow(0.5, "chat", PROMPT)]


def rows_of(
    members: list[tuple[float, str | None, str | None]], prompt: tuple[int, ...] = PROMPT
) -> list[OracleRow]:
    return [OracleRow(weight, adapter, prompt, model) for weight, adapter, model in members]


@pytest.fixture(scope="module", params=[1, 2], ids=["one_worker", "two_workers"])
def server(
    request: pytest.FixtureRequest,
    zoo_base: Path,
    zoo_adapters: dict[str, Path],
    zoo_small: Path,
    zoo_small_adapters: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LiveServer]:
    workers = request.param
    if len(CORES) < workers:
        pytest.skip("a worker needs a core of its own")
    arguments = [
        *("--model", str(zoo_base), "--served-model-name", "zoo", "--model-runner", "v2"),
        *("--adapters", ",".join(f"{name}={zoo_adapters[name]}" for name in ("polite", "chat"))),
        *("--auxiliary", f"small={zoo_small},polite={zoo_small_adapters['polite']}"),
        *("--max-model-len", "256", "--max-num-seqs", "8", "--max-num-batched-tokens", "64"),
        *("--tensor-parallel-size", str(workers), "--dtype", "float32", "--enforce-eager"),
        *("--kv-cache-memory-bytes", str(32 << 20)),
    ]
    environment = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind" if workers == 1 else "|".join(map(str, CORES)),
        "PYTHONPATH": os.pathsep.join(map(str, (SITE, ROOT, INTERPRETER))),
    }
    with serving(arguments, tmp_path_factory.mktemp("v2") / "log.txt", environment) as live:
        yield live


@pytest.fixture(scope="module")
def oracle(
    zoo_base: Path,
    zoo_adapters: dict[str, Path],
    zoo_small: Path,
    zoo_small_adapters: dict[str, Path],
) -> Oracle:
    small: Weights = (zoo_small, {"polite": zoo_small_adapters["polite"]})
    return Oracle(zoo_base, {n: zoo_adapters[n] for n in ("polite", "chat")}, {"small": small})


def answered(server: LiveServer, fields: dict[str, Any]) -> list[int]:
    """The token ids of a greedy answer to the prompt."""
    options: dict[str, Any] = {"max_tokens": ANSWER, "ignore_eos": True, "return_token_ids": True}
    answer = server.complete(prompt=list(PROMPT), **fields, **options)
    assert answer.status_code == 200, answer.text
    tokens: list[int] = answer.json()["choices"][0]["token_ids"]
    assert len(tokens) == ANSWER
    return tokens


def test_it_runs_on_v2_beside_the_front_end(server: LiveServer) -> None:
    log = server.log.read_text()
    assert "model runner: v2" in log
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in children]
    assert any(command.startswith("VLLM::EngineCore") for command in commands), commands


@pytest.mark.parametrize("kind", SUMS)
def test_sums_answer_as_the_reference(server: LiveServer, oracle: Oracle, kind: str) -> None:
    fields, members = SUMS[kind]
    differing = oracle.mismatches(rows_of(members), (), answered(server, fields))
    assert [m for m in differing if m.gap >= TIE] == []


def test_mixtures_answer_as_the_reference(server: LiveServer, oracle: Oracle) -> None:
    tokens = answered(server, {"model": "base", "composition": MIXTURE})
    differing = mixed_mismatches(oracle, MIXED, ROUTER, tokens)
    assert [m for m in differing if m.gap >= TIE] == []


@pytest.mark.parametrize("kind", [*SUMS, "mixture"])
def test_prompts_are_scored_as_by_the_reference(
    server: LiveServer, oracle: Oracle, kind: str
) -> None:
    options: dict[str, Any] = {"max_tokens": 1, "echo": True, "logprobs": 1}
    fields: dict[str, Any] = {"model": "base", "composition": MIXTURE}
    if kind == "mixture":
        rows = [OracleRow(row.weight, row.adapter, PROMPT[:1]) for row in MIXED]
        logits, _ = mixed(oracle, rows, ROUTER, PROMPT[1:])
    else:
        fields, members = SUMS[kind]
        logits = oracle.composed(rows_of(members, PROMPT[:1]), (), PROMPT[1:])
    answer = server.complete(prompt=list(PROMPT), **fields, **options)
    assert answer.status_code == 200, answer.text
    shown = answer.json()["choices"][0]["logprobs"]["token_logprobs"][1 : len(PROMPT)]
    targets = torch.tensor(PROMPT[1:]).unsqueeze(1)
    expected = logits[:-1].double().log_softmax(1).gather(1, targets).squeeze(1)
    assert shown == pytest.approx(expected.tolist(), abs=1e-4)
