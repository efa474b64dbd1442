"""SmolLM2-135M-Instruct in the engine, in bfloat16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from bench.inprocess import InProcessEngine, Job
from experts.base_model import base_model

SEEDS = (1, 2, 3, 4, 5)
"""Seeds on which results are reported: draws of questions and of the sampler."""

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

    def answers(self, jobs: Sequence[Job]) -> list[list[int]]:
        """Return the token ids of all answers, without the end of the turn, in one batch."""
        end = self.tokenizer.eos_token_id
        return [[t for t in tokens if t != end] for tokens in self.engine.answers(jobs)]

    def texts(self, jobs: Sequence[Job]) -> list[str]:
        """Return all answers as text, in one batch."""
        return [str(self.tokenizer.decode(tokens)) for tokens in self.answers(jobs)]
