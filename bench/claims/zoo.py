"""The zoo's adapters do what they are for, and their models do not do it without them."""

from __future__ import annotations

from bench.claim import Result
from bench.measure import show
from zoo import ADAPTERS
from zoo.evaluate import measure as evaluate
from zoo.evaluate import table

BASE_AT_MOST = 0.2


def measure() -> Result:
    """Value: the lowest own-task accuracy of the base model's adapters, as a share of 1.

    The adapters of the small model are shown and not counted: it knows little on purpose, so that
    proxy tuning has something to gain. Nor are those of the model `lists`, which are measured by
    the claim `composite`.
    """
    rows = evaluate()
    show(table(rows))
    adapters = {name: row for name, row in rows.items() if "own" in row}
    knowing = [name for name, row in adapters.items() if row["without"] > BASE_AT_MOST]
    for name in knowing:
        show(f"Without {name}, its model solves more than {BASE_AT_MOST:.0%} of the task.")
    return Result(min(adapters[name]["own"] for name in ADAPTERS), holds=not knowing)
