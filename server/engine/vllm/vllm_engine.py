"""vLLM's application and engine client behind the port.

vLLM's server package changes with every release. Everything that this package uses is imported by
name at the top of its files, so that an incompatible release fails at once.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import vllm
from fastapi import FastAPI
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams

from adapters import AdapterError, Generation
from composer.engine_plan import EnginePlan, LoadedAdapter, Row
from composer.errors import EngineFault
from composer.vllm.execute.adapter_loader import still_loading
from composer.vllm.execute.adapter_probes import PREFIX
from server.engine.port import (
    Body,
    Capacity,
    ExplainedPart,
    Kind,
    Probe,
    RenderedRequest,
    RoutingTrace,
    Tokens,
)
from server.engine.vllm.prompt_renderer import PromptRenderer
from server.engine.vllm.score_reports import ScoreReports

_PROBE_TEXT = "The quick brown fox jumps over the lazy dog, 0 1 2 3 4 5 6 7 8 9."
_PROBE_TOKENS = 20
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.001, 0.05
"""Shortest and longest interval between two questions whether an adapter is loaded."""


class VllmEngine:
    """The implementation of `server.engine.port.Engine`, which documents the methods."""

    def __init__(
        self,
        app: FastAPI,
        client: Any,
        base_names: tuple[str, ...],
        capacities: Mapping[str | None, Capacity],
    ) -> None:
        self.app = app
        self.base_names = base_names
        self.version = vllm.__version__
        self.started = int(time.time())
        self.capacities = capacities
        self._client = client
        self._models = app.state.openai_serving_models
        self._prompts = PromptRenderer(app, self._validate)
        self._score_reports = ScoreReports(partial(self._call, "score_reports"))
        self._probes = 0

    @property
    def alive(self) -> bool:
        return not self._client.errored

    async def load(self, generation: Generation) -> None:
        wait_s = _FIRST_WAIT_S
        while True:
            replies = await self._call("prefetch_adapters", [_entry(generation)], generation.model)
            try:
                if not still_loading(replies):
                    break
            except ValueError as error:
                raise _refused(generation, str(error)) from error
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        if generation.model is None:
            self._models.lora_requests[generation.engine_name] = _lora(generation)

    async def try_slot(self, generation: Generation) -> None:
        for problem in await self._call("try_adapter", _entry(generation), generation.model):
            if problem:
                raise _refused(generation, problem)

    async def retire(self, generation: Generation) -> None:
        self._models.lora_requests.pop(generation.engine_name, None)
        await self._call("retire_adapter", generation.number, generation.model)

    async def figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = (await self._call("composer_stats"))[0]
        return figures

    async def _call(self, method: str, *args: object) -> list[Any]:
        """Call a method of `ComposerWorker` on every worker and return the replies."""
        replies: list[Any] = await self._client.collective_rpc(method, args=args)
        return replies

    async def shift(self, generation: Generation) -> float | None:
        # One step composes the logits of the adapter minus those of the model. If the difference is
        # the same for every token, all tokens are equally likely.
        adapter = LoadedAdapter(*_entry(generation))
        model = generation.model
        plan = EnginePlan.led((Row(1.0, adapter, None, model), Row(-1.0, None, None, model)))
        if self.capacities[None].rows < len(plan.rows):
            return None
        prompt = await self.tokenize(Kind.COMPLETION, {"prompt": _PROBE_TEXT})
        logprobs = await self._next_token(generation, prompt, 1, plan)
        return max(logprobs.values()) + math.log(self._client.model_config.get_vocab_size())

    async def probe(self, generation: Generation) -> Probe:
        config = self._client.model_config
        row = Row(1.0, LoadedAdapter(*_entry(generation)), None, generation.model)
        prompt = await self.tokenize(Kind.COMPLETION, {"prompt": _PROBE_TEXT})
        count = min(_PROBE_TOKENS, config.max_logprobs)
        logprobs = await self._next_token(generation, prompt, count, EnginePlan.led((row,)))
        return Probe(prompt, logprobs, str(config.dtype).removeprefix("torch."))

    async def _next_token(
        self, generation: Generation, prompt: Tokens, count: int, plan: EnginePlan
    ) -> dict[int, float]:
        """Return the log-probabilities of the `count` likeliest next tokens, by token id."""
        extra = plan.to_extra_args()
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprobs=count,
            extra_args=extra,
            skip_reading_prefix_cache=True,  # the cache of an earlier probe would prove nothing
        )
        leads = plan.rows[0].adapter is not None
        self._probes += 1
        outputs = self._client.generate(
            {"prompt_token_ids": list(prompt)},
            params,
            f"{PREFIX}{self._probes}-{generation.engine_name}",
            lora_request=_lora(generation) if leads else None,
        )
        answer = [output async for output in outputs][-1].outputs[0]
        if not answer.logprobs:
            raise EngineFault(
                f"the engine did not answer the probe of adapter '{generation.alias}' "
                f"({answer.finish_reason}). Try again."
            )
        return {token: entry.logprob for token, entry in answer.logprobs[0].items()}

    async def score(self, tokens: Tokens, plan: EnginePlan) -> dict[str, Any]:
        assert plan.scoring is not None
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,
            extra_args=plan.to_extra_args(),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        leader = plan.rows[0].adapter
        lora = None if leader is None else LoRARequest(leader.name, leader.id, leader.path)
        report_id = plan.scoring.report_id
        outputs = self._client.generate(
            {"prompt_token_ids": list(tokens)}, params, f"score-{report_id}", lora_request=lora
        )
        async for _ in outputs:
            pass
        report = await self._score_reports.take(report_id)
        if report is None or len(report["tokens"]) != plan.scoring.tokens:
            raise EngineFault("the engine lost a text while it scored it. Send it again.")
        return report

    def base_cards(self) -> list[Body]:
        cards = self._models.registry.base_model_paths
        return [
            {
                "id": card.name,
                "object": "model",
                "created": self.started,
                "owned_by": "vllm",
                "root": card.name,
                "parent": None,
                "max_model_len": self.capacities[None].model.context_tokens,
            }
            for card in cards
        ]

    def check_tokens(self, tokens: Tokens) -> None:
        self._prompts.check_tokens(tokens)

    async def load_gate(self, path: Path) -> None:
        for problem in await self._call("load_gate", str(path)):
            if problem:
                raise ValueError(problem)

    async def routing_traces(
        self, report_id: str, answer_tokens: int | None = None
    ) -> tuple[RoutingTrace, ...]:
        # Of several workers, only those that sample have reports.
        replies = await self._call("routing_report", report_id, answer_tokens)
        reports: list[dict[str, Any]] = next(filter(None, replies), [])
        reports = sorted(reports, key=lambda report: _place(report.get("name", "")))
        return tuple(RoutingTrace(tuple(r["weights"]), _by_token(r["tokens"])) for r in reports)

    async def explained_parts(
        self, report_id: str, seen: Mapping[str, int], *, last: bool
    ) -> Sequence[ExplainedPart]:
        replies = await self._call("explanation_report", report_id, dict(seen), last)
        # Of several workers, only those that sample know tokens.
        reports = max(replies, key=lambda reply: sum(len(answer["tokens"]) for answer in reply))
        return [
            ExplainedPart(r["name"], *_place(r["name"]), r["tokens"], r["more"]) for r in reports
        ]

    async def drop_explanation(self, report_id: str) -> None:
        await self._call("drop_explanation", report_id)

    def detokenize(self, tokens: Tokens) -> str:
        return self._prompts.detokenize(tokens)

    def _validate(self, params: SamplingParams) -> None:
        self._client.input_processor._validate_params(params, ("generate",))

    async def refusal(self, error: Exception) -> str | None:
        return await self._prompts.refusal(error)

    async def render(self, kind: Kind, body: Body) -> RenderedRequest:
        return await self._prompts.render(kind, body)

    async def tokenize(self, kind: Kind, body: Body, chat_template: str | None = None) -> Tokens:
        return await self._prompts.tokenize(kind, body, chat_template)


_NAME = re.compile(r"(?:(\d+)_)?.*?(?:-(\d+))?(?:-[0-9a-f]{8})?")
"""vLLM's name of a request in the engine: number among the `n` answers to its prompt, request id,
number of its prompt, random suffix."""


def _place(name: str) -> tuple[int, int]:
    """Return the sort key of an answer in its request: number of the prompt, then of the answer."""
    match = _NAME.fullmatch(name)
    number, prompt = match.groups() if match else (None, None)
    return int(prompt or 0), int(number or 0)


def _by_token(tokens: list[Any]) -> tuple[tuple[float, ...] | int, ...]:
    return tuple(tuple(t) if isinstance(t, list) else int(t) for t in tokens)


def _entry(generation: Generation) -> tuple[str, int, str]:
    return generation.engine_name, generation.number, str(generation.path)


def _lora(generation: Generation) -> LoRARequest:
    return LoRARequest(*_entry(generation))


def _refused(generation: Generation, problem: str) -> AdapterError:
    return AdapterError(
        generation.alias,
        generation.path,
        f"vLLM does not load it: {problem}",
        "Check that it was trained on this model, and vLLM's limits for LoRA",
    )
