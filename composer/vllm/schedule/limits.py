"""What one gang may ask of the engine at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm.v1.request import Request

from composer.capacity import EngineCapacity, ModelCapacity, RowNeed
from composer.engine_plan import EnginePlan
from composer.errors import CompositionError
from composer.vllm.schedule.kv_cache.kv_blocks import KVBlocks


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What one model has for the rows that it computes."""

    capacity: ModelCapacity  # when the engine is empty
    kv: KVBlocks  # what is free now
    vocabulary: int  # token ids are below


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """The engine's limits, as far as they bound a single gang."""

    rows: int  # max_num_seqs, of all models together
    models: Mapping[str | None, ModelLimits]  # None is the base

    @property
    def capacity(self) -> EngineCapacity:
        """What the engine holds when it is empty."""
        models = {name: limits.capacity for name, limits in self.models.items()}
        return EngineCapacity(self.rows, models)

    def longest_answer(self, leader: Request, plan: EnginePlan) -> int:
        """Return how many tokens the answer may have: at most what was asked for, less if a context
        or a KV cache ends first. All rows share the limit, so that it ends them together.

        Raises:
            CompositionError: the leader would run under another adapter than the plan says, a
                member's prompt has tokens that its model does not know, or the gang could never
                run (`EngineCapacity.check`).
        """
        leading = plan.rows[0].adapter
        planned = leading.name if leading else None
        requested = leader.lora_request.lora_name if leader.lora_request else None
        if planned != requested:
            raise CompositionError(
                f"the plan's first row wants the adapter {planned!r}, the request runs "
                f"{requested!r}; send the request with the adapter of the plan's first row"
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
                    tuple(adapter.id for adapter in adapters if adapter is not None),
                    str(index),
                )
            )
        longest = self.capacity.longest_answer(needs, leader.max_tokens)
        for row in plan.rows:
            if row.prompt_token_ids is not None:
                self._check_tokens(row.model, row.prompt_token_ids)
        return longest

    def _check_tokens(self, model: str | None, tokens: tuple[int, ...]) -> None:
        """Refuse token ids without an embedding: looking one up would end the engine."""
        vocabulary = self.models[model].vocabulary
        if min(tokens) < 0 or max(tokens) >= vocabulary:
            raise CompositionError(
                f"a member's prompt has token ids from {min(tokens)} to {max(tokens)}; the model "
                f"knows those from 0 to {vocabulary - 1}"
            )
