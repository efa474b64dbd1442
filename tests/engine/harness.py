"""A real vLLM engine in this process, driven step by step, and watched.

After every step the invariants of gang scheduling are checked on the scheduler's own output, so
that every test of this folder is a test of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.request import RequestStatus

from composer.compiled import CompiledPlan, LoadedAdapter, Row
from composer.plan import Filter
from composer.reference.oracle import TIE, Oracle, OracleRow
from composer.vllm.options import engine_options

BLOCK_TOKENS = 32  # the smallest KV block of vLLM's CPU attention


@dataclass
class Job:
    """One request: plain if `rows` is None."""

    prompt: tuple[int, ...]
    rows: tuple[Row, ...] | None = None
    filters: tuple[Filter, ...] = ()
    adapter: LoadedAdapter | None = None  # of a plain request
    params: dict[str, Any] = field(default_factory=dict)

    def sampling_params(self) -> SamplingParams:
        given = {
            "temperature": 0.0,
            "max_tokens": 16,
            "ignore_eos": True,
            "output_kind": RequestOutputKind.FINAL_ONLY,
            **self.params,
        }
        extra = CompiledPlan(self.rows, self.filters).to_extra_args() if self.rows else None
        return SamplingParams(**given, extra_args=extra)

    def lora(self) -> LoRARequest | None:
        adapter = self.rows[0].adapter if self.rows else self.adapter
        return LoRARequest(adapter.name, adapter.id, adapter.path) if adapter else None

    def oracle_rows(self) -> list[OracleRow]:
        rows = self.rows or (Row(1.0, self.adapter),)
        return [
            OracleRow(
                row.weight,
                row.adapter.name if row.adapter else None,
                row.prompt_token_ids or self.prompt,
            )
            for row in rows
        ]


@dataclass
class Watch:
    """What the steps so far have shown."""

    steps: int = 0
    preempted_groups: int = 0
    chunked_rows: int = 0
    scheduled: list[dict[str, int]] = field(default_factory=list)  # step -> request id -> tokens


class Engine:
    """`LLMEngine` with the project's options on a tiny model."""

    def __init__(
        self,
        base: Path,
        adapters: dict[str, Path],
        *,
        kv_blocks: int = 512,
        asynchronous: bool = False,
        **options: Any,
    ) -> None:
        self.adapters = {
            name: LoadedAdapter(name, number, str(path))
            for number, (name, path) in enumerate(sorted(adapters.items()), start=1)
        }
        arguments: dict[str, Any] = {
            "model": str(base),
            "dtype": "float32",
            "enable_lora": True,
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
            **engine_options(),
            **options,
        }
        config = EngineArgs(**arguments).create_engine_config()
        # vLLM switches async scheduling off on CPU, after all options: back on, to test it.
        config.scheduler_config.async_scheduling = asynchronous
        self.engine = LLMEngine.from_vllm_config(config, disable_log_stats=True)
        self.core = self.engine.engine_core.engine_core
        self.scheduler = self.core.scheduler
        self.runner = self.core.model_executor.driver_worker.worker.model_runner
        self.watch = Watch()
        self._schedule = self.scheduler.schedule
        self.scheduler.schedule = self._watched_schedule
        self._count = 0

    def add(self, job: Job) -> str:
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
        outputs = self.engine.step()
        self._check_tokens()
        return list(outputs)

    def run(self, jobs: Sequence[Job], max_steps: int = 5000) -> list[RequestOutput]:
        """All answers, in the order of the jobs."""
        names = [self.add(job) for job in jobs]
        done = self.drain(max_steps)
        return [done[name] for name in names]

    def drain(self, max_steps: int = 5000) -> dict[str, RequestOutput]:
        done: dict[str, RequestOutput] = {}
        for _ in range(max_steps):
            if not self.engine.has_unfinished_requests():
                return done
            done.update({out.request_id: out for out in self.step() if out.finished})
        raise AssertionError(f"unfinished after {max_steps} steps: {list(self.scheduler.requests)}")

    def abort(self, name: str) -> None:
        self.engine.abort_request([name])

    def answers(self, jobs: Sequence[Job]) -> list[list[int]]:
        return [list(out.outputs[0].token_ids) for out in self.run(jobs)]

    def assert_nothing_left(self) -> None:
        """No request, group, block, slot or row index survives its request."""
        while self.core.batch_queue:  # async: the last step may still be in flight
            self.step()
        self.engine.step()
        scheduler = self.scheduler
        assert not scheduler.requests
        assert not scheduler.running
        assert not len(scheduler.waiting)
        assert not len(scheduler.kv_holding_waiting)
        assert not scheduler._groups
        assert not scheduler._group_of
        assert not scheduler._joining
        assert not scheduler._ended
        pool = scheduler.kv_cache_manager.block_pool
        assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1
        assert not self.engine.output_processor.request_states

    def _watched_schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        scheduler, watch = self.scheduler, self.watch
        admitted = {id(g) for g in scheduler._groups.values() if g.admitted}
        loras = {r.lora_request.lora_int_id for r in scheduler.running if r.lora_request}
        output = self._schedule(*args, **kwargs)
        scheduled = output.num_scheduled_tokens
        watch.steps += 1
        watch.scheduled.append(dict(scheduled))
        for group in scheduler._groups.values():
            counts = [row.request_id in scheduled for row in group.rows]
            joined = [row.status is RequestStatus.RUNNING for row in group.rows]
            if id(group) in admitted and not group.admitted:
                watch.preempted_groups += 1
            if group.released:
                # A released group advances as a whole or not at all ...
                assert all(counts) or not any(counts), (group.leader.request_id, counts)
                assert all(joined)
            else:
                # ... one that was not released never computes its last known token ...
                for row in group.rows:
                    assert row.num_computed_tokens < row.num_tokens
                    watch.chunked_rows += row.request_id in scheduled
            if not group.admitted:
                # ... and one that waits holds nothing.
                assert not any(joined)
                assert not any(counts)
                for row in group.rows:
                    assert not any(scheduler.kv_cache_manager.get_block_ids(row.request_id))
        if scheduler.lora_config:
            loras = {r.lora_request.lora_int_id for r in scheduler.running if r.lora_request}
            assert len(loras) <= scheduler.lora_config.max_loras
        assert len(scheduler.running) <= scheduler.max_num_running_reqs
        return output

    def _check_tokens(self) -> None:
        """The rows of a group hold the same answer at every moment."""
        for group in self.scheduler._groups.values():
            answers = {tuple(row.output_token_ids) for row in group.rows}
            assert len(answers) == 1, (group.leader.request_id, answers)


def count_mismatches(
    oracle: Oracle, jobs: Sequence[Job], answers: Sequence[Sequence[int]]
) -> tuple[int, int]:
    """Requests whose greedy answer differs from the oracle's, and near-ties that were allowed."""
    wrong = ties = 0
    for job, answer in zip(jobs, answers, strict=True):
        found = oracle.mismatches(job.oracle_rows(), job.filters, answer)
        wrong += any(m.gap >= TIE for m in found)
        ties += sum(m.gap < TIE for m in found)
    return wrong, ties
