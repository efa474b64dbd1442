"""Whether the rows of one composed request can ever run together.

The scheduler asks the same again; here the client still gets a 400 with the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

from composer.errors import GroupTooLargeError, PromptTooLongError
from composer.plan import Member
from server.engine import Capacity


def check_group(
    members: Sequence[Member],
    prompt_tokens: Sequence[int],
    adapters: int,
    max_tokens: int | None,
    capacity: Capacity,
) -> None:
    """Refuse a group that could never be scheduled.

    Args:
        members: the plan's members, one row each.
        prompt_tokens: length of each member's prompt.
        adapters: how many different adapters the members use.
        max_tokens: length of the answer that was asked for; None lets the engine find what fits.
        capacity: what the engine holds.

    Raises:
        PromptTooLongError: a prompt with the answer exceeds the context.
        GroupTooLargeError: too many rows, adapters or KV cache blocks.
    """
    answer = 1 if max_tokens is None else max(max_tokens, 1)
    for member, tokens in zip(members, prompt_tokens, strict=True):
        if tokens + answer > capacity.context_tokens:
            raise PromptTooLongError(
                f"member {member} reads {tokens} tokens; with {answer} to generate that is "
                f"{tokens + answer}, and the context holds {capacity.context_tokens}. "
                "Shorten its prompt or ask for fewer tokens.",
                param="composition",
            )
    rows = len(members)
    if rows > capacity.rows:
        raise GroupTooLargeError(
            f"the composition has {rows} members, so {rows} rows that run at once; the server "
            f"runs at most {capacity.rows}. Use fewer members, or start it with a larger "
            "--max-num-seqs.",
            param="composition",
        )
    if adapters > capacity.adapters:
        raise GroupTooLargeError(
            f"the composition uses {adapters} adapters at once; the server holds "
            f"{capacity.adapters}. Use fewer, or start it with a larger --max-loras.",
            param="composition",
        )
    _check_blocks(prompt_tokens, answer, capacity)


def _check_blocks(prompt_tokens: Sequence[int], answer: int, capacity: Capacity) -> None:
    # The last token of an answer is never fed back, so it takes no place in the cache.
    blocks = [-(-(tokens + answer - 1) // capacity.block_tokens) for tokens in prompt_tokens]
    if sum(blocks) > capacity.kv_blocks:
        arithmetic = " + ".join(
            f"({tokens} + {answer} - 1)/{capacity.block_tokens}" for tokens in prompt_tokens
        )
        raise GroupTooLargeError(
            f"the rows need {arithmetic}, each rounded up, = {sum(blocks)} blocks of the KV cache "
            f"at once; it has {capacity.kv_blocks}. Ask for fewer tokens or members, shorten the "
            "prompts, or start the server with a larger --kv-cache-memory-bytes.",
            param="composition",
        )
