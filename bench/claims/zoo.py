"""The zoo's adapters solve their tasks, and their models alone do not."""

from __future__ import annotations

from bench.claim import Result
from bench.measure import show
from zoo import ADAPTERS
from zoo.evaluate import measure as evaluate
from zoo.evaluate import table

BASE_AT_MOST = 0.2


def measure() -> Result:
    """Return the lowest own-task accuracy of the base model's adapters, as a share of 1.

    Adapters of the small model are shown and not counted: it knows little on purpose, so that
    proxy-tuning has something to gain. Adapters of the model `lists` are measured by the claim
    `composite`.
    """
    rows = evaluate()
    show(table(rows))
    adapters = {name: row for name, row in rows.items() if "own" in row}
    knowing = [name for name, row in adapters.items() if row["without"] > BASE_AT_MOST]
    for name in knowing:
        show(f"Without {name}, its model solves more than {BASE_AT_MOST:.0%} of the task.")
    return Result(min(adapters[name]["own"] for name in ADAPTERS), holds=not knowing)
