"""The answer that fits is the longest: against counting block by block."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.capacity import EngineCapacity, ModelCapacity, RowNeed, usable_blocks
from composer.errors import CompositionError, GangTooLargeError, UnknownModelError

SIZES = st.sampled_from([1, 2, 3, 4, 8])
MODELS = st.builds(
    ModelCapacity,
    context_tokens=st.integers(1, 40),
    adapters=st.integers(0, 3),
    kv_blocks=st.integers(0, 30),
    block_tokens=st.lists(SIZES, min_size=1, max_size=3).map(tuple),
)
ENGINES = st.builds(
    EngineCapacity, st.integers(1, 6), st.fixed_dictionaries({None: MODELS, "small": MODELS})
)
ROWS = st.lists(
    st.builds(
        RowNeed,
        st.sampled_from([None, "small"]),
        st.integers(1, 20),
        st.lists(st.integers(1, 4), max_size=2).map(tuple),
    ),
    min_size=1,
    max_size=7,
)


def fits(engine: EngineCapacity, rows: list[RowNeed], answer: int) -> bool:
    """Every token of every row takes its place, one after the other."""
    if len(rows) > engine.rows:
        return False
    for name, model in engine.models.items():
        own = [row for row in rows if row.model == name]
        if len({adapter for row in own for adapter in row.adapters}) > model.adapters:
            return False
        blocks = 0
        for row in own:
            if row.prompt_tokens + answer > model.context_tokens:
                return False
            for size in model.block_tokens:
                room = 0
                for _ in range(row.prompt_tokens + answer - 1):  # the last is never fed back
                    if room == 0:
                        blocks, room = blocks + 1, size
                    room -= 1
        if blocks > model.kv_blocks:
            return False
    return True


@given(ENGINES, ROWS, st.integers(1, 50))
def test_the_longest_answer(engine: EngineCapacity, rows: list[RowNeed], asked: int) -> None:
    """Front end and scheduler never disagree: what `check` lets pass has its answer."""
    possible = [answer for answer in range(1, asked + 1) if fits(engine, rows, answer)]
    try:
        engine.check(rows, asked)
        allowed = True
    except CompositionError:
        allowed = False
    assert allowed == (asked in possible)
    if possible:
        assert engine.longest_answer(rows, asked) == max(possible)
    else:
        with pytest.raises(CompositionError):
            engine.longest_answer(rows, asked)


@pytest.mark.parametrize(("blocks", "watermark", "usable"), [(17, 0.0, 16), (17, 0.2, 13)])
def test_one_block_is_never_used_and_the_watermark_stays_free(
    blocks: int, watermark: float, usable: int
) -> None:
    assert usable_blocks(blocks, watermark) == usable


def test_errors_name_the_figures() -> None:
    two_groups = EngineCapacity(2, {None: ModelCapacity(100, 0, 9, (16, 32))})
    with pytest.raises(GangTooLargeError) as caught:
        two_groups.check([RowNeed(None, 60), RowNeed(None, 50)], 5)
    assert "(60 + 5 - 1)/16 + (50 + 5 - 1)/16 + (60 + 5 - 1)/32" in caught.value.message
    assert "= 12 blocks" in caught.value.message
    assert "it has 9" in caught.value.message
    with pytest.raises(UnknownModelError):
        two_groups.check([RowNeed("small", 1)], 1)
