"""Groups that can never run are refused, with the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from composer.capacity import ModelCapacity, RowNeed
from composer.errors import GangTooLargeError, PromptTooLongError
from composer.plan import Member
from composer.prompts import TextPrompt
from server.compose.gang_capacity import check_gang as check
from server.engine.port import Capacity

CAPACITY = Capacity(ModelCapacity(100, adapters=2, kv_blocks=8, block_tokens=(16,)), rows=3)
SMALL = Capacity(ModelCapacity(60, adapters=1, kv_blocks=6, block_tokens=(16,)), rows=3)
MEMBERS = [Member("base"), Member("polite"), Member("base", TextPrompt("other"))]


def check_gang(
    members: Sequence[Member], tokens: Sequence[int], adapters: int, max_tokens: int | None
) -> None:
    """Rows of the base model, the first `adapters` of them with one each."""
    rows = [
        RowNeed(None, count, (f"a{n}",) if n < adapters else (), str(member))
        for n, (member, count) in enumerate(zip(members, tokens, strict=True))
    ]
    check(rows, max_tokens, {None: CAPACITY})


def test_what_fits_exactly() -> None:
    check_gang(MEMBERS, [17, 17, 17], 1, 16)  # 2 blocks each
    check_gang(MEMBERS[:1], [84], 0, 16)
    check_gang(MEMBERS, [17, 17, 17], 2, None)


def test_prompt_and_answer_exceed_the_context() -> None:
    with pytest.raises(PromptTooLongError, match=r"member polite reads 85 .* 101") as caught:
        check_gang(MEMBERS[:2], [10, 85], 1, 16)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(PromptTooLongError):
        check_gang(MEMBERS[:1], [100], 0, None)


def test_more_rows_than_run_at_once() -> None:
    with pytest.raises(GangTooLargeError, match=r"4 rows .* at most 3"):
        check_gang([*MEMBERS, Member("rude")], [1] * 4, 2, 1)


def test_more_adapters_than_slots() -> None:
    with pytest.raises(GangTooLargeError, match=r"3 adapters .* 2\. .*--max-loras"):
        check_gang(MEMBERS, [1] * 3, 3, 1)


def test_one_row_may_need_several_slots() -> None:
    check([RowNeed(None, 10, ("a", "b", "a"))], 1, {None: CAPACITY})
    with pytest.raises(GangTooLargeError, match=r"3 adapters .* 2\. .*--max-loras"):
        check([RowNeed(None, 10, ("a", "b", "c"))], 1, {None: CAPACITY})


def test_more_blocks_than_there_are() -> None:
    with pytest.raises(GangTooLargeError) as caught:
        check_gang(MEMBERS, [33, 33, 40], 1, 16)
    message = caught.value.message
    assert "(33 + 16 - 1)/16 + (33 + 16 - 1)/16 + (40 + 16 - 1)/16" in message
    assert "= 10 blocks" in message
    assert "it has 8" in message


def test_every_model_has_its_own_room() -> None:
    capacities = {None: CAPACITY, "small": SMALL}

    def row(model: str | None, tokens: int, *adapters: str) -> RowNeed:
        return RowNeed(model, tokens, adapters)

    check([row(None, 80), row("small", 40), row("small", 40, "a")], 8, capacities)
    with pytest.raises(PromptTooLongError, match="context of 'small' holds 60"):
        check([row(None, 50), row("small", 60)], 8, capacities)
    with pytest.raises(GangTooLargeError, match="2 adapters of 'small'"):
        check([row(None, 9), row("small", 9, "a"), row("small", 9, "b")], 8, capacities)
    with pytest.raises(GangTooLargeError, match=r"cache of 'small' .* --auxiliary-memory"):
        check([row(None, 9), row("small", 50), row("small", 52)], 8, capacities)
