"""What one group may ask of the engine at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from vllm.v1.request import Request

from composer.compiled import CompiledPlan
from composer.errors import CompositionError, GroupTooLargeError, UnknownModelError
from composer.vllm.room import KVRoom


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What one model has for the rows that it computes."""

    context: int  # tokens
    adapters: int  # slots
    room: KVRoom
    vocabulary: int  # token ids are below


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """The engine's limits, as far as they bound a single group."""

    rows: int  # max_num_seqs, of all models together
    models: Mapping[str | None, ModelLimits]  # None is the base

    def longest_answer(self, leader: Request, plan: CompiledPlan) -> int:
        """How many tokens the answer may have: at most what was asked for, less if a context or a
        KV cache ends first. All rows share it, so that the length limit ends them together.

        Raises:
            CompositionError: the leader would run under another adapter than the plan says.
            UnknownModelError: the engine has no auxiliary model of that name.
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
        if len(plan.rows) > self.rows:
            raise GroupTooLargeError(
                f"the composition needs {len(plan.rows)} rows, the server runs at most "
                f"{self.rows} at once; use fewer members or raise --max-num-seqs"
            )
        longest = leader.max_tokens
        prompts: dict[str | None, list[int]] = defaultdict(list)
        adapters: dict[str | None, set[int]] = defaultdict(set)
        for row in plan.rows:
            own = row.prompt_token_ids
            prompts[row.model].append(leader.num_prompt_tokens if own is None else len(own))
            if own is not None:
                self._check_tokens(row.model, own)
            adapters[row.model].update({row.adapter.id} if row.adapter else ())
        if plan.switch is not None:
            adapters[None].update(one.id for one in plan.switch.candidates if one is not None)
        for model in prompts:
            longest = self._bounded(longest, model, prompts[model], len(adapters[model]))
        return longest

    def _check_tokens(self, model: str | None, tokens: tuple[int, ...]) -> None:
        """Refuse token ids for which a model has no embedding: looking them up would end it."""
        vocabulary = self._of(model).vocabulary
        if min(tokens) < 0 or max(tokens) >= vocabulary:
            raise CompositionError(
                f"a member's prompt has token ids from {min(tokens)} to {max(tokens)}; the model "
                f"knows those from 0 to {vocabulary - 1}"
            )

    def _of(self, model: str | None) -> ModelLimits:
        if model not in self.models:
            raise UnknownModelError(str(model), [name for name in self.models if name is not None])
        return self.models[model]

    def _bounded(self, longest: int, model: str | None, prompts: list[int], adapters: int) -> int:
        """`longest`, or what one model allows to its own rows if that is less."""
        limits = self._of(model)
        name = "the base model" if model is None else f"the auxiliary model {model!r}"
        if adapters > limits.adapters:
            raise GroupTooLargeError(
                f"the composition needs {adapters} adapters of {name} at once, the server has "
                f"{limits.adapters} slots; use fewer adapters or raise the number of slots"
            )
        bounded = limits.room.longest_answer(prompts, min(longest, limits.context - max(prompts)))
        if bounded < 1:
            raise GroupTooLargeError(
                f"prompts of {prompts} tokens do not fit {name}, whose context has "
                f"{limits.context} tokens and whose KV cache {limits.room.capacity} blocks; "
                "shorten them or use fewer members"
            )
        return bounded
