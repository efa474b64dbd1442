"""What one group may ask of the engine at all."""

from __future__ import annotations

from dataclasses import dataclass

from vllm.v1.request import Request

from composer.compiled import CompiledPlan
from composer.errors import CompositionError, GroupTooLargeError
from composer.vllm.room import KVRoom


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """The engine's limits, as far as they bound a single group."""

    rows: int  # max_num_seqs
    adapters: int  # max_loras
    context: int  # max_model_len, tokens
    room: KVRoom

    def longest_answer(self, leader: Request, plan: CompiledPlan) -> int:
        """How many tokens the answer may have: at most what was asked for, less if the context or
        the KV cache ends first. All rows share it, so that the length limit ends them together.

        Raises:
            CompositionError: the leader would run under another adapter than the plan says.
            GroupTooLargeError: the group could never run.
        """
        adapter = plan.rows[0].adapter
        asked = adapter.name if adapter else None
        runs = leader.lora_request.lora_name if leader.lora_request else None
        if asked != runs:
            raise CompositionError(
                f"the plan's first row wants the adapter {asked!r}, the request runs {runs!r}; "
                "send the request with the adapter of the plan's first row"
            )
        prompts = [
            leader.num_prompt_tokens if row.prompt_token_ids is None else len(row.prompt_token_ids)
            for row in plan.rows
        ]
        adapters = {row.adapter.id for row in plan.rows if row.adapter}
        if len(prompts) > self.rows:
            raise GroupTooLargeError(
                f"the composition needs {len(prompts)} rows, the server runs at most {self.rows} "
                "at once; use fewer members or raise --max-num-seqs"
            )
        if len(adapters) > self.adapters:
            raise GroupTooLargeError(
                f"the composition needs {len(adapters)} adapters at once, the server has "
                f"{self.adapters} slots; use fewer adapters or raise --max-loras"
            )
        limit = min(leader.max_tokens, self.context - max(prompts))
        longest = self.room.longest_answer(prompts, limit)
        if longest < 1:
            raise GroupTooLargeError(
                f"prompts of {prompts} tokens do not fit the context of {self.context} tokens and "
                f"the KV cache of {self.room.capacity} blocks; shorten them or use fewer members"
            )
        return longest
