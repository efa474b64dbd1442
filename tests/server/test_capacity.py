"""Groups that can never run are refused, with the arithmetic."""

from __future__ import annotations

import pytest

from composer.errors import GroupTooLargeError, PromptTooLongError
from composer.plan import Member
from composer.prompts import TextPrompt
from server.capacity import check_group
from server.engine import Capacity

CAPACITY = Capacity(context_tokens=100, rows=3, adapters=2, kv_blocks=8, block_tokens=16)
MEMBERS = [Member("base"), Member("polite"), Member("base", TextPrompt("other"))]


def test_what_fits_exactly() -> None:
    check_group(MEMBERS, [17, 17, 17], 1, 16, CAPACITY)  # 2 blocks each
    check_group(MEMBERS[:1], [84], 0, 16, CAPACITY)
    check_group(MEMBERS, [17, 17, 17], 2, None, CAPACITY)


def test_prompt_and_answer_exceed_the_context() -> None:
    with pytest.raises(PromptTooLongError, match=r"member polite reads 85 .* 101") as caught:
        check_group(MEMBERS[:2], [10, 85], 1, 16, CAPACITY)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(PromptTooLongError):
        check_group(MEMBERS[:1], [100], 0, None, CAPACITY)


def test_more_rows_than_run_at_once() -> None:
    with pytest.raises(GroupTooLargeError, match=r"4 rows .* at most 3"):
        check_group([*MEMBERS, Member("rude")], [1] * 4, 2, 1, CAPACITY)


def test_more_adapters_than_slots() -> None:
    with pytest.raises(GroupTooLargeError, match=r"3 adapters .* 2\. .*--max-loras"):
        check_group(MEMBERS, [1] * 3, 3, 1, CAPACITY)


def test_more_blocks_than_there_are() -> None:
    with pytest.raises(GroupTooLargeError) as caught:
        check_group(MEMBERS, [33, 33, 40], 1, 16, CAPACITY)
    message = caught.value.message
    assert "(33 + 16 - 1)/16 + (33 + 16 - 1)/16 + (40 + 16 - 1)/16" in message
    assert "= 10 blocks" in message
    assert "it has 8" in message
