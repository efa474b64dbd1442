"""Training data of adapters that take turns in the answer to a list.

An adapter sees right answers to its own task only: the lists are those that the model has read, in
which lines answer other questions, except for the adapter's own questions. In a part of the rows,
LoRA is on only around the adapter's turns, and the model computes the rest, as in a row that
switches adapters. In the other rows LoRA is on everywhere, as in a row of a mixture, and the
adapter learns to leave the model unchanged outside its turns.
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

EVERYWHERE = 0.5  # share of rows with LoRA on everywhere
# Tokens by which a gate may miss the beginning and the end of a turn: it chooses the adapter of a
# token before having read it.
EARLY, EARLY_OR_LATE = (0, 0, 0, -1, -2, -3), (0, 0, -1, 1, 1, 2)
BEYOND = (0, 0, 0, 1, 2)
SIZES = (1, 1, 2, 2, 3, 4, 10)  # numbers of questions in a list


@dataclass(frozen=True)
class Lesson:
    """A row: token ids, which of them have labels, and which are computed with LoRA."""

    ids: list[int]
    labelled: list[bool]
    on: list[bool]


def turn_batches(
    tokenizer: PreTrainedTokenizerFast, task: str, round_: Round, seed: int, rows: int
) -> Iterator[Batch]:
    """Yield batches for one round of a task; rows of a batch have similar lengths."""
    rng = random.Random(f"turns {task} {seed}")
    batches: list[list[Lesson]] = []
    for _ in range(round_.steps):
        if not batches:
            drawn = [_lesson(tokenizer, task, round_, rng) for _ in range(POOL * rows)]
            drawn.sort(key=lambda lesson: len(lesson.ids))
            batches = [drawn[i : i + rows] for i in range(0, len(drawn), rows)]
            rng.shuffle(batches)
        yield _padded(batches.pop(), tokenizer.convert_tokens_to_ids(PAD))


def _lesson(
    tokenizer: PreTrainedTokenizerFast, task: str, round_: Round, rng: random.Random
) -> Lesson:
    items = lists.misanswered(rng, rng.choice(SIZES), answered=task, share=round_.own_share)
    begins = EARLY_OR_LATE if round_.late else EARLY
    ids: list[int] = _ids(tokenizer, BOS + lists.opening(items))
    first = len(ids)
    turns: list[range] = []  # token positions of the adapter's turns
    for piece in lists.pieces(items):
        start = len(ids)
        ids += _ids(tokenizer, piece.text)
        if piece.task == task:
            turns.append(range(start, len(ids)))
    ids.append(tokenizer.eos_token_id)
    if rng.random() < EVERYWHERE:
        return Lesson(ids, [i >= first for i in range(len(ids))], [True] * len(ids))
    labelled, on = [False] * len(ids), [False] * len(ids)
    for turn in turns:
        # Computing the token at `i` predicts the token at `i + 1`.
        for i in range(turn.start - 1 + rng.choice(begins), turn.stop - 1 + rng.choice(BEYOND)):
            if i + 1 < len(ids):
                on[i] = labelled[i + 1] = True
    return Lesson(ids, labelled, on)


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _padded(lessons: list[Lesson], pad: int) -> Batch:
    width = max(len(lesson.ids) for lesson in lessons)
    ids = torch.full((len(lessons), width), pad)
    labels = torch.full((len(lessons), width), IGNORED)
    on = torch.zeros(len(lessons), width, dtype=torch.bool)
    for row, lesson in enumerate(lessons):
        length = len(lesson.ids)
        ids[row, :length] = tokens = torch.tensor(lesson.ids)
        labels[row, :length] = tokens.where(torch.tensor(lesson.labelled), torch.tensor(IGNORED))
        on[row, :length] = torch.tensor(lesson.on)
    return Batch(ids, labels, on)
