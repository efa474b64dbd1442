"""Whether the rows of one composed request can ever run together: a 400 with the arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from composer.capacity import EngineCapacity, RowNeed
from server.engine.port import Capacity


def check_gang(
    rows: Sequence[RowNeed], max_tokens: int | None, capacities: Mapping[str | None, Capacity]
) -> None:
    """Refuse a gang that could never be scheduled.

    Args:
        rows: one for each member of the plan, and for an added leader.
        max_tokens: requested length of the answer; None lets the engine find what fits.
        capacities: of each model; None is the base model.

    Raises:
        PromptTooLongError: a prompt with the answer exceeds a context.
        GangTooLargeError: too many rows, adapters or KV cache blocks.
    """
    models = {name: capacity.model for name, capacity in capacities.items()}
    engine = EngineCapacity(capacities[None].rows, models)
    engine.check(rows, 1 if max_tokens is None else max(max_tokens, 1))
