"""The metrics of lm_eval's tasks, from what a loop has computed for each item."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any, TypeAlias

Item: TypeAlias = Mapping[str, Any]
Values: TypeAlias = Sequence[Any]
"""Per request of an item: a log-likelihood in nats, or a generated text."""

Answered: TypeAlias = Sequence[tuple[Item, Values]]


def hellaswag(answered: Answered) -> dict[str, float]:
    """Is the likeliest ending right, by log-likelihood and by log-likelihood per character?"""
    per_character = [
        (item, [v / len(c) for v, c in zip(values, item["choices"], strict=True)])
        for item, values in answered
    ]
    return {
        "acc,none": mean(_likeliest(values) == item["gold"] for item, values in answered),
        "acc_norm,none": mean(_likeliest(values) == item["gold"] for item, values in per_character),
    }


def truthfulqa_mc1(answered: Answered) -> dict[str, float]:
    """Is the likeliest answer the true one, which stands first?"""
    return {"acc,none": mean(_likeliest(values) == 0 for _, values in answered)}


def truthfulqa_mc2(answered: Answered) -> dict[str, float]:
    """What share of the probability do true answers have?"""
    shares = []
    for item, values in answered:
        weights = [math.exp(value) for value in values]
        true = zip(weights, item["mc2_targets"]["labels"], strict=True)
        shares.append(sum(weight for weight, label in true if label) / sum(weights))
    return {"acc,none": mean(shares)}


def wikitext(answered: Answered) -> dict[str, float]:
    """How surprising are pages, per word and per byte?"""
    total = sum(values[0] for _, values in answered)
    words = sum(len(re.split(r"\s+", item["page"])) for item, _ in answered)
    size = sum(len(item["page"].encode()) for item, _ in answered)
    return {
        "word_perplexity,none": math.exp(-total / words),
        "byte_perplexity,none": math.exp(-total / size),
        "bits_per_byte,none": -total / size / math.log(2),
    }


def gsm8k(answered: Answered) -> dict[str, float]:
    """Is the number after the first `####` right, and is the last number?"""
    strict, flexible = [], []
    for item, [text] in answered:
        right = str(item["answer"]).split("#### ")[1]
        marked = re.findall(r"#### (-?[0-9.,]+)", text)
        numbers = re.findall(r"-?[$0-9.,]{2,}|-?[0-9]+", text)
        strict.append(bool(marked) and _plain(marked[0]) == right)
        flexible.append(bool(numbers) and _plain(numbers[-1]) == right)
    return {
        "exact_match,strict-match": mean(strict),
        "exact_match,flexible-extract": mean(flexible),
    }


METRICS: dict[str, Callable[[Answered], dict[str, float]]] = {
    function.__name__: function
    for function in (hellaswag, truthfulqa_mc1, truthfulqa_mc2, wikitext, gsm8k)
}
"""Task -> its metrics under lm_eval's names."""


def _likeliest(values: Values) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _plain(number: str) -> str:
    """Return a number without what gsm8k ignores."""
    return re.sub(r"[,$]", "", number).removesuffix(".")
