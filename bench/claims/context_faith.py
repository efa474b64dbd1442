"""Context-aware decoding makes SmolLM2 answer from a context that contradicts what it knows."""

from __future__ import annotations

from bench.claim import Result
from bench.measure import show, table
from bench.reproduce.real.context_aware import ALPHA, ask, known_facts, split
from bench.reproduce.real.model import RealModel
from bench.reproduce.seeds import cell, mean

MOST_PLAIN = 0.3
LEAST_FACTS = 100


def measure() -> Result:
    """Return the share of false contexts that the answers obey, at the chosen alpha.

    The claim also needs at least `LEAST_FACTS` facts that the model knows, and that without
    context-aware decoding it obeys at most `MOST_PLAIN` of the same contexts.
    """
    model = RealModel({})
    _, test = split(known_facts(model))
    plain, composed = (ask(model, test, alpha) for alpha in (0.0, ALPHA))
    show(f"{len(test)} facts, five false contexts each:")
    rows = [
        (f"{alpha:g}", cell(asked.obeys), cell(asked.knows))
        for alpha, asked in ((0.0, plain), (ALPHA, composed))
    ]
    show(table(("alpha", "obeys, %", "contains the true answer, %"), rows))
    holds = len(test) >= LEAST_FACTS and mean(plain.obeys) <= MOST_PLAIN
    return Result(mean(composed.obeys), holds=holds)
