"""The examples that come with the zoo."""

from __future__ import annotations

import pytest

from zoo.prompts import COUNT, EXAMPLES, prompts
from zoo.tasks import tasks


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_files_hold_prompts_of_the_training_split(name: str) -> None:
    written = EXAMPLES[name].read_text(encoding="utf-8").splitlines()
    assert written == prompts(name), "run `python -m zoo.prompts`"
    assert len(set(written)) == COUNT
    held_out = {example.messages[-1]["content"] for example in tasks()[name].evaluation(100)}
    assert not held_out & set(written)
