"""Whether the rows of one composed request can ever run together.

The scheduler asks the same again; here the client still gets a 400 with the arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from composer.errors import GroupTooLargeError, PromptTooLongError
from composer.plan import Member
from server.engine import Capacity


@dataclass(frozen=True, slots=True)
class RowNeed:
    """What one row asks of its model."""

    member: Member
    model: str | None
    """The auxiliary model that computes it; None is the base."""

    prompt_tokens: int
    adapters: tuple[str, ...] = ()
    """What it runs under; several where it switches between them."""


def check_group(
    rows: Sequence[RowNeed], max_tokens: int | None, capacities: Mapping[str | None, Capacity]
) -> None:
    """Refuse a group that could never be scheduled.

    Args:
        rows: one for each member of the plan, and for a leader that was added.
        max_tokens: length of the answer that was asked for; None lets the engine find what fits.
        capacities: what each model holds.

    Raises:
        PromptTooLongError: a prompt with the answer exceeds a context.
        GroupTooLargeError: too many rows, adapters or KV cache blocks.
    """
    answer = 1 if max_tokens is None else max(max_tokens, 1)
    most = capacities[None].rows
    if len(rows) > most:
        raise GroupTooLargeError(
            f"the composition needs {len(rows)} rows that run at once; the server runs at most "
            f"{most}. Use fewer members, or start it with a larger --max-num-seqs.",
            param="composition",
        )
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        _check_model(own, answer, capacities[model], f" of '{model}'" if model else "")


def _check_model(rows: Sequence[RowNeed], answer: int, capacity: Capacity, whose: str) -> None:
    for row in rows:
        member, tokens = row.member, row.prompt_tokens
        if tokens + answer > capacity.context_tokens:
            raise PromptTooLongError(
                f"member {member} reads {tokens} tokens; with {answer} to generate that is "
                f"{tokens + answer}, and the context{whose} holds {capacity.context_tokens}. "
                "Shorten its prompt or ask for fewer tokens.",
                param="composition",
            )
    adapters = len({name for row in rows for name in row.adapters})
    if adapters > capacity.adapters:
        raise GroupTooLargeError(
            f"the composition uses {adapters} adapters{whose} at once; the server holds "
            f"{capacity.adapters}. Use fewer, or start it with a larger --max-loras.",
            param="composition",
        )
    _check_blocks([row.prompt_tokens for row in rows], answer, capacity, whose)


def _check_blocks(
    prompt_tokens: Sequence[int], answer: int, capacity: Capacity, whose: str
) -> None:
    # The last token of an answer is never fed back, so it takes no place in the cache.
    blocks = [-(-(tokens + answer - 1) // capacity.block_tokens) for tokens in prompt_tokens]
    if sum(blocks) > capacity.kv_blocks:
        arithmetic = " + ".join(
            f"({tokens} + {answer} - 1)/{capacity.block_tokens}" for tokens in prompt_tokens
        )
        raise GroupTooLargeError(
            f"the rows need {arithmetic}, each rounded up, = {sum(blocks)} blocks of the KV "
            f"cache{whose} at once; it has {capacity.kv_blocks}. Ask for fewer tokens or members, "
            "shorten the prompts, or start the server with a larger "
            f"{'--auxiliary-memory' if whose else '--kv-cache-memory-bytes'}.",
            param="composition",
        )
