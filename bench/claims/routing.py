"""How often the prompt router picks the adapter that a prompt is for."""

from __future__ import annotations

from bench.claim import Result
from bench.measure import show, table
from composer.mixtures.tfidf import PromptSimilarity
from zoo.prompts import COUNT, EXAMPLES
from zoo.tasks import tasks

HELD_OUT = 200  # prompts of each task
TEMPERATURE = 0.1


def measure() -> Result:
    """Return the share of held-out prompts whose own adapter has the largest weight.

    Adapters that answer the same questions in another manner are not among the candidates.
    """
    texts = {name: path.read_text(encoding="utf-8").splitlines() for name, path in EXAMPLES.items()}
    router = PromptSimilarity(texts)
    right, rows = 0, []
    for name in EXAMPLES:
        chosen, weights = [], []
        for example in tasks()[name].evaluation(HELD_OUT):
            shares = router.weights(example.messages[-1]["content"], TEMPERATURE)
            chosen.append(max(shares, key=shares.__getitem__))
            weights.append(shares[name])
        right += chosen.count(name)
        others = sorted({*chosen} - {name})
        rows.append(
            (
                name,
                f"{chosen.count(name) / HELD_OUT:.1%}",
                f"{sum(weights) / HELD_OUT:.3f}",
                ", ".join(others) or "-",
            )
        )
    show(f"{COUNT} examples of each adapter, {HELD_OUT} held-out prompts of each task:")
    show(table(("adapter", "chosen for its own", "mean weight", "taken for"), rows))
    return Result(right / (HELD_OUT * len(EXAMPLES)))
