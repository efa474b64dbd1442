"""vLLM's engine in this process, driven step by step, for benchmarks and tests."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.request import Request

from composer.engine_plan import (
    EnginePlan,
    Explaining,
    LoadedAdapter,
    MixtureParameters,
    Row,
    Scoring,
    Switch,
)
from composer.filters import Filter
from composer.reference.oracle import OracleRow, Weights
from composer.vllm.auxiliary.spec import Auxiliary
from composer.vllm.execute.adapter_loader import still_loading
from composer.vllm.options import engine_options
from composer.vllm.schedule.kv_cache.kv_pools import RoutedKVCache

BLOCK_TOKENS = 32  # the smallest KV block of vLLM's CPU attention
_QUEUES = ("running", "waiting", "kv_holding_waiting")
_GANGS = ("by_leader", "by_row", "joining", "ended")
"""Collections of the scheduler and its gangs that are empty when there is nothing to do."""

ENGINES: list[InProcessEngine] = []
"""All engines of this process. One that is collected takes down state that vLLM's engines share."""


@dataclass
class Job:
    """One request: composed of `rows`, or a row that switches with `switch`, or plain."""

    prompt: tuple[int, ...]
    rows: tuple[Row, ...] | None = None
    filters: tuple[Filter, ...] = ()
    adapter: LoadedAdapter | None = None  # of a plain request
    params: dict[str, Any] = field(default_factory=dict)
    mixture: MixtureParameters | None = None
    switch: Switch | None = None  # instead of rows
    report: str | None = None
    explain: bool = False
    log_softmax: bool = False
    scoring: Scoring | None = None  # with `prompt_logprobs`
    explanation: Explaining | None = None

    def sampling_params(self) -> SamplingParams:
        """Return greedy sampling of 16 tokens without an early end, changed by `params`."""
        values = {
            "temperature": 0.0,
            "max_tokens": 16,
            "ignore_eos": True,
            "output_kind": RequestOutputKind.FINAL_ONLY,
            **self.params,
        }
        return SamplingParams(**values, extra_args=self._extra_args())

    def _extra_args(self) -> dict[str, str] | None:
        rows = self.rows
        if self.switch is not None:
            rows = (Row(1.0, self.switch.candidates[self.switch.start]),)
        if rows is None:
            return None
        plan = EnginePlan(
            rows,
            self.filters,
            self.mixture,
            self.switch,
            self.report,
            self.explain,
            self.log_softmax,
            self.scoring,
            self.explanation,
        )
        return plan.to_extra_args()

    def lora(self) -> LoRARequest | None:
        adapter = self.rows[0].adapter if self.rows else self.adapter
        if self.switch is not None:
            adapter = self.switch.candidates[self.switch.start]
        return LoRARequest(adapter.name, adapter.id, adapter.path) if adapter else None

    def oracle_rows(self) -> list[OracleRow]:
        """Return the same request for `composer.reference`."""
        rows = self.rows or (Row(1.0, self.adapter),)
        return [
            OracleRow(
                row.weight,
                row.adapter.name if row.adapter else None,
                row.prompt_token_ids or self.prompt,
                row.model,
            )
            for row in rows
        ]

    @property
    def scored_tokens(self) -> int:
        """How many tokens at the end of the prompt are scored."""
        if self.params.get("prompt_logprobs") is None:
            return 0
        return len(self.prompt) - 1 if self.scoring is None else self.scoring.tokens

    def separate(self) -> list[Job]:
        """Return the same rows as plain requests, which vLLM batches without composing them."""
        return self.separate_by_model().get(None, [])

    def separate_by_model(self) -> dict[str | None, list[Job]]:
        """Return the same rows as plain requests, by the model that computes them (None: the
        base)."""
        jobs: dict[str | None, list[Job]] = {}
        for row in self.rows or (Row(1.0, self.adapter),):
            prompt = row.prompt_token_ids or self.prompt
            job = Job(prompt, adapter=row.adapter, params=self.params)
            jobs.setdefault(row.model, []).append(job)
        return jobs


class InProcessEngine:
    """vLLM's `LLMEngine` with the project's options, or without them (`composing=False`)."""

    def __init__(
        self,
        base: Path,
        adapters: Mapping[str, Path],
        *,
        kv_blocks: int | None = 512,
        asynchronous: bool = False,
        composing: bool = True,
        auxiliaries: Mapping[str, Weights] | None = None,
        auxiliary_kv_bytes: int = 64 << 20,  # each
        auxiliary_slots: int = 2,  # for adapters, each
        **options: Any,
    ) -> None:
        self.adapters = _numbered(adapters)
        self.auxiliary_adapters = {
            name: _numbered(paths) for name, (_, paths) in (auxiliaries or {}).items()
        }
        specs = [
            Auxiliary(name, str(path), auxiliary_kv_bytes, slots, 16, len(paths) or None)
            for name, (path, paths) in (auxiliaries or {}).items()
            for slots in [auxiliary_slots if paths else 0]
        ]
        arguments: dict[str, Any] = {
            "model": str(base),
            "dtype": "float32",
            "enable_lora": bool(adapters),
            "max_loras": 4,
            "max_lora_rank": 16,
            "max_cpu_loras": 16,
            "max_model_len": 512,
            "max_num_seqs": 64,
            "max_num_batched_tokens": 2048,
            "block_size": BLOCK_TOKENS,
            "num_gpu_blocks_override": kv_blocks,
            "kv_cache_memory_bytes": 256 << 20,
            "enforce_eager": True,
            "disable_log_stats": True,
            **(engine_options(specs) if composing else {}),
            **options,
        }
        config = EngineArgs(**arguments).create_engine_config()
        # vLLM ignores the option for async scheduling on CPU: set it in the finished configuration.
        config.scheduler_config.async_scheduling = asynchronous
        self.engine = LLMEngine.from_vllm_config(config, disable_log_stats=True)
        self.core = self.engine.engine_core.engine_core
        self.scheduler = self.core.scheduler
        self.worker = self.core.model_executor.driver_worker.worker
        self.runner = self.worker.model_runner
        self._count = 0
        ENGINES.append(self)

    def add(self, job: Job) -> str:
        """Queue a request and return its name."""
        self._count += 1
        name = f"r{self._count}"
        self.engine.add_request(
            name,
            {"prompt_token_ids": list(job.prompt)},
            job.sampling_params(),
            lora_request=job.lora(),
        )
        return name

    def step(self) -> list[RequestOutput]:
        return list(self.engine.step())

    def run(self, jobs: Iterable[Job], max_steps: int = 5000) -> list[RequestOutput]:
        """Return all answers, in the order of the jobs."""
        names = [self.add(job) for job in jobs]
        done = self.drain(max_steps)
        return [done[name] for name in names]

    def drain(self, max_steps: int = 5000) -> dict[str, RequestOutput]:
        """Step until every request has its answer.

        Raises:
            AssertionError: requests are left after `max_steps`.
        """
        done: dict[str, RequestOutput] = {}
        for _ in range(max_steps):
            if not self.engine.has_unfinished_requests():
                return done
            done.update({out.request_id: out for out in self.step() if out.finished})
        raise AssertionError(f"unfinished after {max_steps} steps: {list(self.scheduler.requests)}")

    def abort(self, name: str) -> None:
        self.engine.abort_request([name])

    def prefetch(self, adapters: Iterable[LoadedAdapter]) -> set[int]:
        """Start to load adapters in the background and return the ids of those not in memory yet.

        Raises:
            ValueError: an adapter cannot be loaded.
        """
        entries = [(adapter.name, adapter.id, adapter.path) for adapter in adapters]
        return still_loading(self.core.collective_rpc("prefetch_adapters", args=(entries,)))

    def load(self, adapters: Iterable[LoadedAdapter]) -> None:
        """Wait until these adapters, at most as many as slots, are in memory."""
        adapters = list(adapters)
        while self.prefetch(adapters):
            time.sleep(0.001)

    def retire(self, adapter: LoadedAdapter) -> None:
        self.core.collective_rpc("retire_adapter", args=(adapter.id,))

    def resident(self) -> list[int]:
        """Return the ids of the adapters in memory."""
        [ids] = self.core.collective_rpc("resident_adapters")
        return list(ids)

    def report(self, report_id: str) -> list[dict[str, Any]]:
        """Return what routers did in the answers to the job with this `report`."""
        [reports] = self.core.collective_rpc("routing_report", args=(report_id,))
        return list(reports)

    def scores(self, report_id: str) -> dict[str, Any]:
        """Return what was computed of the prompt with this `Scoring.report_id`."""
        [reports] = self.core.collective_rpc("score_reports", args=([report_id],))
        [report] = reports[report_id]
        return dict(report)

    def explained(
        self, report_id: str, seen: Mapping[str, int] | None = None, *, last: bool = True
    ) -> list[dict[str, Any]]:
        """Return what is known of the answers to the job with this `Explaining.report_id`."""
        known = dict(seen or {})
        answers: dict[str, dict[str, Any]] = {}
        more = True
        while more:
            arguments = (report_id, known, last)
            [reports] = self.core.collective_rpc("explanation_report", args=arguments)
            for report in reports:
                name, tokens = report["name"], report["tokens"]
                known[name] = known.get(name, 0) + len(tokens)
                answers.setdefault(name, {"name": name, "tokens": []})["tokens"] += tokens
            more = any(report["more"] for report in reports)
        return list(answers.values())

    def answers(self, jobs: Sequence[Job]) -> list[list[int]]:
        return [list(out.outputs[0].token_ids) for out in self.run(jobs)]

    def forget_prefixes(self) -> None:
        """Empty the prefix cache, so that the same prompts cost the same again."""
        self._land()
        assert self.engine.reset_prefix_cache(), "requests are running"

    def _land(self) -> None:
        """Finish the step that async scheduling may have in flight after the last answer."""
        while getattr(self.core, "batch_queue", None):
            self.step()

    def _left_in_the_worker(self) -> list[str]:
        """Describe routed and auxiliary requests that the worker has not forgotten."""
        auxiliaries = getattr(self.worker, "auxiliaries", None)
        if auxiliaries is None:  # vLLM's own worker
            return []
        left = [f"mixture {name}" for name in self.worker.mixtures.tracked()]
        left += [f"scores of {name}" for name in self.worker.scoring.tracked()]
        left += [f"explanation of {name}" for name in self.worker.explanations.tracked()]
        if self.worker.switches is not None:
            left += [f"switch {name}" for name in self.worker.switches.tracked()]
        left += [f"answer to {name}" for name in self.worker._ledger.open_requests]
        left += [f"route of {name}" for name in auxiliaries.model_of]
        for auxiliary in auxiliaries.runners:
            left += [f"row {name}" for name in auxiliary.view.known_requests]
            left += [f"batch row {name}" for name in auxiliary.view.batch_requests]
        return left

    def leftovers(self) -> list[str]:
        """Describe what has survived its request: rows, gangs, queue entries, missing KV blocks."""
        self._land()
        self.step()
        scheduler = self.scheduler
        left = [f"request {name}" for name in scheduler.requests]
        gangs = getattr(scheduler, "gangs", None)  # not of vLLM's own scheduler
        for owner, names in ((scheduler, _QUEUES), (gangs, _GANGS if gangs else ())):
            for name in names:
                size = len(getattr(owner, name))
                left += [f"{name}: {size}"] * (size > 0)
        for model, manager in managers_of(scheduler).items():
            pool = manager.block_pool
            missing = pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()
            left += [f"{missing} KV blocks of {model or 'the base'}"] * (missing > 0)
        left += self._left_in_the_worker()
        left += [f"output of {name}" for name in self.engine.output_processor.request_states]
        return left


def prompt_scores(output: RequestOutput) -> list[float | None]:
    """Return the log-probability of each token of the prompt: None for the first; empty if the
    request did not ask."""
    tokens = zip(output.prompt_token_ids or (), output.prompt_logprobs or (), strict=False)
    return [None if logprobs is None else logprobs[token].logprob for token, logprobs in tokens]


def managers_of(scheduler: Any) -> Mapping[str | None, Any]:
    """Return the KV cache managers of a scheduler by model (None: the base)."""
    manager = scheduler.kv_cache_manager
    return manager.by_model if isinstance(manager, RoutedKVCache) else {None: manager}


def _numbered(adapters: Mapping[str, str | Path]) -> dict[str, LoadedAdapter]:
    return {
        name: LoadedAdapter(name, number, str(path))
        for number, (name, path) in enumerate(sorted(adapters.items()), start=1)
    }


def live_requests() -> int:
    """Count the vLLM `Request` objects that are alive in this process."""
    gc.collect()
    return sum(isinstance(thing, Request) for thing in gc.get_objects())
