"""Demand for KV cache blocks by what runs already, in the step to come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vllm.v1.request import Request

from composer.vllm.schedule.gang import model_of, tokens_left
from composer.vllm.schedule.gang_table import GangTable
from composer.vllm.schedule.limits import EngineLimits
from composer.vllm.schedule.step_budget import StepBudget


class KVDemand:
    """Finds the models whose KV caches lack blocks, before vLLM's loop runs."""

    def __init__(self, gangs: GangTable, limits: EngineLimits) -> None:
        self._gangs = gangs
        self._models = limits.models

    def is_ample(self, running: Sequence[Request], step: StepBudget) -> bool:
        """Return whether the KV caches hold whatever this step may ask for.

        Compares an upper bound, which is cheap: False does not prove that they are short.
        """
        gangs = self._gangs
        rows = len(gangs.by_row) + len(running)
        return all(
            limits.kv.free_for_admission >= limits.kv.max_in_step(rows, step.tokens)
            for model, limits in self._models.items()
            if model is None or any(model in gang.models for gang in gangs.by_leader.values())
        )

    def short_models(self, running: Sequence[Request], step: StepBudget) -> frozenset[str | None]:
        """Return the models whose KV caches lack blocks for what runs already, in this step."""
        wanted: Counter[str | None] = Counter()
        joining = [g for g in self._gangs.joining if g.released]
        late = [row for gang in joining for row in gang.unjoined()]
        for gang in joining:
            for row in gang.unjoined():
                # vLLM admits a row only if all of its tokens fit.
                wanted[model_of(row)] += self._models[model_of(row)].kv.of_tokens(row.num_tokens)
        for model in set(map(model_of, late)):
            wanted[model] += self._models[model].kv.watermark
        left = step.tokens - sum(g.chunk * len(g.unjoined()) for g in joining)
        left -= sum(map(self.in_lock_step, running))
        for row in running:
            new = self.in_lock_step(row)
            if not new:
                of_row = self._gangs.of(row)
                new = tokens_left(row) - (0 if of_row is None else of_row.after_barrier)
                new = min(max(new, 0), max(left, 0))
                left -= new
            wanted[model_of(row)] += self._models[model_of(row)].kv.wanted_by(row, new)
        return frozenset(m for m, blocks in wanted.items() if blocks > self._models[m].kv.free)

    def in_lock_step(self, row: Request) -> int:
        """Return how many tokens a running row computes in this step because it decodes, or because
        its gang is scored; 0 for a row that reads its prompt, or has nothing to compute."""
        gang, left = self._gangs.of(row), tokens_left(row)
        if gang is None:
            return int(left == 1)
        return min(left, gang.chunk) if gang.released else 0
