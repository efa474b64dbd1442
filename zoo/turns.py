"""What an adapter learns that takes turns with others in the answer to a list.

An adapter meets the answers of its own task only: in lists as the model has read them, whose lines
answer other questions, its own questions have the right ones. In a part of the rows its LoRA is on
where it speaks, and about there: the rest has been computed by the model, as in a row that changes
its adapter. In the others it is on everywhere, as in a row of a mixture, and there the adapter
learns to leave the model as it is where it is not its turn.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from zoo import lists
from zoo.tokenizer import BOS, PAD
from zoo.train import IGNORED, POOL, Batch, Round

EVERYWHERE = 0.5  # share of the rows
# Tokens by which a gate may miss the beginning of a turn, and its end. A gate chooses before it has
# read the token that the choice is for: there it often takes a turn for another's.
EARLY, EARLY_OR_LATE = (0, 0, 0, -1, -2, -3), (0, 0, -1, 1, 1, 2)
BEYOND = (0, 0, 0, 1, 2)
SIZES = (1, 1, 2, 2, 3, 4, 10)  # questions of a list


@dataclass(frozen=True)
class Lesson:
    """A row: its tokens, which of them are to be learned, and which of them LoRA computes."""

    ids: list[int]
    wanted: list[bool]
    on: list[bool]


def turn_batches(
    tokenizer: PreTrainedTokenizerFast, task: str, part: Round, seed: int, rows: int
) -> Iterator[Batch]:
    """Lessons in the task `task`, for a round. Rows of a batch are of similar length."""
    rng = random.Random(f"turns {task} {seed}")
    batches: list[list[Lesson]] = []
    for _ in range(part.steps):
        if not batches:
            drawn = [_lesson(tokenizer, task, part, rng) for _ in range(POOL * rows)]
            drawn.sort(key=lambda lesson: len(lesson.ids))
            batches = [drawn[i : i + rows] for i in range(0, len(drawn), rows)]
            rng.shuffle(batches)
        yield _padded(batches.pop(), tokenizer.convert_tokens_to_ids(PAD))


def _lesson(
    tokenizer: PreTrainedTokenizerFast, task: str, part: Round, rng: random.Random
) -> Lesson:
    items = lists.misanswered(rng, rng.choice(SIZES), own=task, share=part.own)
    begins = EARLY_OR_LATE if part.late else EARLY
    ids: list[int] = _ids(tokenizer, BOS + lists.opening(items))
    first = len(ids)
    turns: list[range] = []  # own ones, by the places of their tokens
    for piece in lists.pieces(items):
        start = len(ids)
        ids += _ids(tokenizer, piece.text)
        if piece.task == task:
            turns.append(range(start, len(ids)))
    ids.append(tokenizer.eos_token_id)
    if rng.random() < EVERYWHERE:
        return Lesson(ids, [place >= first for place in range(len(ids))], [True] * len(ids))
    wanted, on = [False] * len(ids), [False] * len(ids)
    for turn in turns:
        # The token at `place` is computed to predict the one behind it.
        for place in range(turn.start - 1 + rng.choice(begins), turn.stop - 1 + rng.choice(BEYOND)):
            if place + 1 < len(ids):
                on[place] = wanted[place + 1] = True
    return Lesson(ids, wanted, on)


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def _padded(lessons: list[Lesson], pad: int) -> Batch:
    width = max(len(lesson.ids) for lesson in lessons)
    ids = torch.full((len(lessons), width), pad)
    labels = torch.full((len(lessons), width), IGNORED)
    on = torch.zeros(len(lessons), width, dtype=torch.bool)
    for row, lesson in enumerate(lessons):
        length = len(lesson.ids)
        ids[row, :length] = own = torch.tensor(lesson.ids)
        labels[row, :length] = own.where(torch.tensor(lesson.wanted), torch.tensor(IGNORED))
        on[row, :length] = torch.tensor(lesson.on)
    return Batch(ids, labels, on)
