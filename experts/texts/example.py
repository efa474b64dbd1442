"""One text to learn, and how texts are kept apart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeVar

T = TypeVar("T")


class Split(Enum):
    """Where an example comes from."""

    TRAINING = auto()
    HELD_OUT = auto()  # other content (words, verses), the same wordings
    PARAPHRASED = auto()  # other content and other wordings


@dataclass(frozen=True)
class Example:
    """A text, and the chat question that it answers; None if it stands alone."""

    prompt: str | None
    text: str


HELD_OUT_SHARE = 0.1


def part_of(items: Sequence[T], split: Split) -> Sequence[T]:
    """Return what a split may use of items, which must come in the same order at every call."""
    shuffled = random.Random("split").sample(items, len(items))
    held_out = int(len(items) * HELD_OUT_SHARE)
    return shuffled[held_out:] if split is Split.TRAINING else shuffled[:held_out]
