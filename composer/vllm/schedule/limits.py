"""What one group may ask of the engine at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm.v1.request import Request

from composer.capacity import EngineCapacity, ModelCapacity, RowNeed
from composer.engine_plan import EnginePlan
from composer.errors import CompositionError
from composer.vllm.schedule.kv_blocks import KVBlocks


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """One model: what it has for the rows that it computes, and what is free of it now."""

    capacity: ModelCapacity
    room: KVBlocks
    vocabulary: int  # token ids are below

    @property
    def adapters(self) -> int:
        """Adapter slots."""
        return self.capacity.adapters


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """The engine's limits, as far as they bound a single group."""

    rows: int  # max_num_seqs, of all models together
    models: Mapping[str | None, ModelLimits]  # None is the base

    @property
    def capacity(self) -> EngineCapacity:
        """What the engine holds when it is empty."""
        models = {name: limits.capacity for name, limits in self.models.items()}
        return EngineCapacity(self.rows, models)

    def longest_answer(self, leader: Request, plan: EnginePlan) -> int:
        """How many tokens the answer may have: at most what was asked for, less if a context or a
        KV cache ends first. All rows share it, so that the length limit ends them together.

        Raises:
            CompositionError: the leader would run under another adapter than the plan says, a
                member's prompt has tokens that its model does not know, or the group could never
                run (`EngineCapacity.check`).
        """
        adapter = plan.rows[0].adapter
        asked = adapter.name if adapter else None
        runs = leader.lora_request.lora_name if leader.lora_request else None
        if asked != runs:
            raise CompositionError(
                f"the plan's first row wants the adapter {asked!r}, the request runs {runs!r}; "
                "send the request with the adapter of the plan's first row"
            )
        needs = []
        for index, row in enumerate(plan.rows):
            prompt = row.prompt_token_ids
            adapters = [row.adapter]
            if plan.switch is not None:
                adapters += plan.switch.candidates
            needs.append(
                RowNeed(
                    row.model,
                    leader.num_prompt_tokens if prompt is None else len(prompt),
                    tuple(one.id for one in adapters if one is not None),
                    str(index),
                )
            )
        longest = self.capacity.longest_answer(needs, leader.max_tokens)
        for row in plan.rows:
            if row.prompt_token_ids is not None:
                self._check_tokens(row.model, row.prompt_token_ids)
        return longest

    def _check_tokens(self, model: str | None, tokens: tuple[int, ...]) -> None:
        """Refuse token ids for which a model has no embedding: looking them up would end it."""
        vocabulary = self.models[model].vocabulary
        if min(tokens) < 0 or max(tokens) >= vocabulary:
            raise CompositionError(
                f"a member's prompt has token ids from {min(tokens)} to {max(tokens)}; the model "
                f"knows those from 0 to {vocabulary - 1}"
            )
