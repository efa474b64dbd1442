"""Prompts with several questions: what they hold, what is right, and what adapters learn from."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import zoo
from zoo import lists
from zoo.list_corpus import LISTS, ListCorpus, list_batches
from zoo.lists import (
    LETTERS,
    Item,
    answer,
    composite,
    list_tasks,
    misanswered,
    pieces,
    prompt,
    right,
)
from zoo.tokenizer import BOS, CONTEXT
from zoo.train import IGNORED, Round, Stage
from zoo.turns import turn_batches

ITEMS = [Item("sort", "Sort b a", "In order: a b"), Item("ends", "Ends of c d", "Ends: c d")]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(zoo.LISTS)


def test_a_list_and_its_answer() -> None:
    assert prompt(ITEMS) == "A. Sort b a\nB. Ends of c d\n"
    assert answer(ITEMS) == "A. Sort b a\nIn order: a b\nB. Ends of c d\nEnds: c d\n"
    assert [piece.task for piece in pieces(ITEMS)] == [None, "sort", None, "ends"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (answer(ITEMS), [True, True]),
        ("A. Sort b a\nIn order: b a\nB. Ends of c d\nEnds: c d\n", [False, True]),
        ("B. Ends of c d\nEnds: c d\n", [False, True]),
        ("A. Sort b a\nIn order: a b\nB. Ends of c d\nEnds: c d", [True, False]),  # cut off
        ("A. Ends of c d\nEnds: c d\nB. Sort b a\nIn order: a b\n", [False, False]),
        ("In order: a b\nEnds: c d\n", [False, False]),
        ("", [False, False]),
    ],
)
def test_right_is_right_to_the_letter(text: str, expected: list[bool]) -> None:
    assert right(ITEMS, text) == expected


def test_a_composite_prompt_asks_every_adapter_once() -> None:
    rng = random.Random(0)
    drawn = [composite(rng, 10, evaluated=True) for _ in range(20)]
    for items in drawn:
        assert {item.task for item in items} == set(list_tasks()) == set(zoo.LIST_ADAPTERS)
    assert len({items[0].task for items in drawn}) > 3  # in random order
    assert len(composite(rng, 3, evaluated=True)) == 3


def test_no_training_meets_an_evaluated_question() -> None:
    rng = random.Random(0)
    asked = {item.question for _ in range(200) for item in composite(rng, 10, evaluated=True)}
    read = {
        item.question
        for _ in range(200)
        for item in misanswered(rng, 10, answered="sort", share=0.5)
    }
    assert len(asked) > 500
    assert not asked & read


def _answered(item: Item) -> str:
    for task, request, _, answered in LETTERS:
        if item.task == task:
            return answered(item.question.removeprefix(request).split())
    number = int(item.question.split()[-1])
    if item.task == "count":
        return " ".join(str(number + i) for i in range(1, 6))
    return "Down: " + " ".join(str(number - i) for i in range(1, 6))


def test_the_model_reads_what_answers_look_like_and_no_answer_with_its_question() -> None:
    rng = random.Random(0)
    for item in composite(rng, 10, evaluated=False):
        assert item.line == _answered(item)
    own = 0
    for _ in range(100):
        for item in misanswered(rng, 10):
            assert item.line != _answered(item)
            if item.task != "count":
                assert item.line.split()[0] == _answered(item).split()[0]
        for item in misanswered(rng, 10, answered="sort", share=0.6):
            assert (item.line == _answered(item)) == (item.task == "sort")
            own += item.task == "sort"
    assert 500 < own < 700


def test_pieces_are_tokenized_alike_by_themselves_and_together(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    items = composite(random.Random(1), 10, evaluated=True)
    parts = [BOS + lists.opening(items), *(piece.text for piece in pieces(items))]
    apart = [id for text in parts for id in tokenizer(text, add_special_tokens=False)["input_ids"]]
    whole = tokenizer("".join(parts), add_special_tokens=False)["input_ids"]
    assert apart == whole
    assert len(whole) < CONTEXT
    messages = [{"role": "user", "content": prompt(items)}]
    chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert chat == tokenizer(parts[0], add_special_tokens=False)["input_ids"]


def test_rows_hold_whole_documents(tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = ListCorpus(0, LISTS)
    batches = list_batches(tokenizer, corpus, 3, Stage(LISTS, 0, rows=4, rate=1.0, width=512))
    for batch in batches:
        for row, labels in zip(batch.ids, batch.labels, strict=True):
            real = row[row != tokenizer.pad_token_id]
            assert len(real) > 400
            assert (real[0], real[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
            assert torch.equal(labels[labels != IGNORED], real)


@pytest.mark.parametrize("late", [False, True])
def test_an_adapter_learns_its_turns_and_nothing_of_the_others(
    late: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    everywhere = masked = cut = 0
    part = Round(4, own_share=0.6, late=late)
    for batch in turn_batches(tokenizer, "sort", part, 0, 6):
        assert batch.on is not None
        for ids, labels, on in zip(batch.ids, batch.labels, batch.on, strict=True):
            learned = labels != IGNORED
            assert torch.equal(labels[learned], ids[learned])
            count = int((ids != tokenizer.pad_token_id).sum())
            if bool(on[:count].all()):
                everywhere += 1
                continue
            masked += 1
            # What is learned is what the LoRA predicts: it is on one token before.
            assert torch.equal(learned[1:], on[:-1])
            spoken = tokenizer.decode(ids).partition("<|assistant|>")[2].split("\n")
            text = tokenizer.decode(ids[learned])
            for question, line in zip(spoken[0:-1:2], spoken[1::2], strict=False):
                # Its own answers, without their first words if late, and of questions at most the
                # tokens at their ends.
                own = ". Sort " in question
                assert (line.removeprefix("In order") in text) == own, (question, line)
                assert question not in text
                cut += own and line not in text
    assert everywhere
    assert masked
    assert bool(cut) == late
