"""SmolLM2-135M-Instruct with its adapters in the engine, in bfloat16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from bench.inprocess import InProcessEngine, Job
from composer.engine_plan import EnginePlan, MixtureParameters, Row
from composer.fields import BASE
from composer.filters import NamedFilter
from composer.formula import Sum
from composer.plan import Member, normalize
from experts.base_model import base_model

SEEDS = (1, 2, 3, 4, 5)
"""Seeds on which results are reported: draws of questions and of the sampler."""

DOCUMENT = 0
"""The token <|endoftext|>, between the documents of the pre-training."""

Message = tuple[str, str]
"""Role and content."""


class RealModel:
    """An engine with SmolLM2 and adapters; answers end at the end of the turn."""

    def __init__(self, adapters: Mapping[str, Path], **options: Any) -> None:
        base = base_model()
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.engine = InProcessEngine(
            base,
            adapters,
            **{
                "dtype": "bfloat16",
                "kv_blocks": 2000,
                "kv_cache_memory_bytes": 2 << 30,
                "max_num_seqs": 128,
                **options,
            },
        )

    def chat(self, *messages: Message) -> tuple[int, ...]:
        """Return the token ids of a conversation, up to the beginning of the reply."""
        ids = self.tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages],
            add_generation_prompt=True,
            return_dict=False,
        )
        return tuple(ids)

    def ask(self, question: str) -> tuple[int, ...]:
        """Return the token ids of a conversation that begins with `question`."""
        return self.chat(("user", question))

    def document(self, beginning: str) -> tuple[int, ...]:
        """Return the token ids of a document that begins so, without the chat template."""
        ids = self.tokenizer(beginning, add_special_tokens=False)["input_ids"]
        return (DOCUMENT, *ids)

    def job(
        self,
        formula: Sum,
        prompt: tuple[int, ...],
        *,
        filters: Sequence[NamedFilter] = (),
        **params: Any,
    ) -> Job:
        """Return a request to a sum of logits over adapters and `base`, with sampling `params`."""
        plan = normalize(((Member(name), weight) for name, weight in formula), filters)
        rows = [
            Row(weight, self.engine.adapters[member.model] if member.model != BASE else None)
            for member, weight in zip(plan.members, plan.weights, strict=True)
        ]
        params = {"ignore_eos": False, **params}
        if plan.is_plain:
            return Job(prompt, adapter=rows[0].adapter, params=params)
        led = EnginePlan.led(rows, plan.filters)
        return Job(prompt, led.rows, led.filters, params=params)

    def mixed(
        self,
        prior: Mapping[str, float],
        mixture: MixtureParameters,
        prompt: tuple[int, ...],
        **params: Any,
    ) -> Job:
        """Return a request to a mixture of adapters and `base`, by their prior weights."""
        rows = tuple(
            Row(weight, self.engine.adapters[name] if name != BASE else None)
            for name, weight in prior.items()
        )
        return Job(prompt, rows, mixture=mixture, params={"ignore_eos": False, **params})

    def answers(self, jobs: Sequence[Job]) -> list[list[int]]:
        """Return the token ids of all answers, without the end of the turn, in one batch."""
        end = self.tokenizer.eos_token_id
        return [[t for t in tokens if t != end] for tokens in self.engine.answers(jobs)]

    def texts(self, jobs: Sequence[Job]) -> list[str]:
        """Return all answers as text, in one batch."""
        return [str(self.tokenizer.decode(tokens)) for tokens in self.answers(jobs)]
