"""The table "Merged against decoded" and the notes on it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from safetensors.torch import load_file

import zoo
from adapters.weight_space.factors import AdapterReader
from adapters.weight_space.merge.inputs import inner
from bench.measure import table
from bench.reproduce.cases import Case
from bench.reproduce.contest import Contestant, Kind, Measured
from bench.reproduce.seeds import cell

Results: TypeAlias = Mapping[str, Mapping[str, Measured | None]]
"""Name of the contestant -> name of the case -> measurement."""

_SUM, _OWN = "sum of logits", "each task's own adapter"


def results_table(
    contestants: Sequence[Contestant], cases: Sequence[Case], results: Results
) -> str:
    """Return the table: a row per contestant; columns are the tasks of each case and their mean."""
    header = ["answers, %"]
    for case in cases:
        header += [f"{case.name}: {task}" for task in case.formulas] + [f"{case.name}: mean"]
    rows = []
    for contestant in contestants:
        row = [contestant.name]
        for case in cases:
            measured = results[contestant.name][case.name]
            if measured is None:
                row += ["-"] * (len(case.formulas) + 1)
            else:
                row += [cell(measured.shares[task]) for task in case.formulas]
                row.append(cell(measured.means))
        rows.append(row)
    return table(header, rows)


def summary(contestants: Sequence[Contestant], cases: Sequence[Case], results: Results) -> str:
    """Return one sentence with the means over tasks."""
    parts = []
    for case in cases:
        name, merged = _best(contestants, case, results, lambda m: statistics.mean(m.means))
        others = [results[name][case.name] for name in (_SUM, _OWN)]
        cells = [cell(measured.means) for measured in (merged, *others) if measured]
        parts.append(f"{case.name} {' / '.join(cells)} ({name})")
    return (
        "Mean of the tasks in %, the best of all merges / sum of logits / each task's own adapter: "
        f"{'; '.join(parts)}."
    )


def notes(contestants: Sequence[Contestant], cases: Sequence[Case], results: Results) -> str:
    """Return Markdown notes: where merging wins, first answers, chosen parameters."""
    wins = [win for case in cases for win in _wins(contestants, case, results)]
    lines = [f"The best merge gets more than the sum of logits on: {'; '.join(wins) or 'no task'}."]
    for case in cases:
        if decoded := results[_SUM][case.name]:
            answers = "; ".join(f"{a.question} `{a.text}`" for a in decoded.samples)
            lines.append(f"The first answers of the sum of logits in {case.name}: {answers}.")
    for contestant in contestants:
        chosen = {
            case.name: measured.chosen
            for case in cases
            if (measured := results[contestant.name][case.name]) and measured.chosen
        }
        if chosen:
            ways = "; ".join(f"{case}: {way}" for case, way in chosen.items())
            lines.append(f"{contestant.name}: {ways}.")
    return "\n".join(f"* {line}" for line in lines)


def _wins(contestants: Sequence[Contestant], case: Case, results: Results) -> list[str]:
    """Return the tasks on which the best merge has the higher mean over the seeds."""
    wins = []
    for task in case.formulas:
        decoded = results[_SUM][case.name]
        name, best = _best(contestants, case, results, _on(task))
        if decoded and _on(task)(best) > _on(task)(decoded):
            pair = f"{cell(best.shares[task])} against {cell(decoded.shares[task])}"
            wins.append(f"{task} of {case.name}, {pair} ({name})")
    return wins


def _on(task: str) -> Callable[[Measured], float]:
    return lambda measured: statistics.mean(measured.shares[task])


def _best(
    contestants: Sequence[Contestant],
    case: Case,
    results: Results,
    value: Callable[[Measured], float],
) -> tuple[str, Measured]:
    """Return the best merged contestant on the evaluation split, which favours merging."""
    merged = [
        (c.name, measured)
        for c in contestants
        if c.kind is Kind.MERGED and (measured := results[c.name][case.name])
    ]
    return max(merged, key=lambda pair: value(pair[1]))


def delta_sizes() -> str:
    """Return a sentence on the size of the zoo's deltas, relative to the weights they change."""
    weights = load_file(zoo.BASE / "model.safetensors")
    sizes = {}
    for name, path in zoo.ADAPTERS.items():
        reader = AdapterReader(path)
        deltas = [reader.read(module) for module in reader.modules]
        energy = sum(inner(delta, delta) for delta in deltas)
        base = sum(float(weights[f"{m}.weight"].double().square().sum()) for m in reader.modules)
        sizes[name] = math.sqrt(energy / base)
    small, large = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    return (
        f"The deltas have {sizes[small]:.0%} (`{small}`) to {sizes[large]:.0%} (`{large}`) "
        "of the norm of the weights that they change."
    )
