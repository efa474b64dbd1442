"""The results of a soak as a table and as a claim."""

from __future__ import annotations

from bench.claim import Result
from bench.measure import show, table
from bench.soak.run import Soaked

MOST_GROWTH_MIB = 8.0


def judged(soaked: Soaked) -> Result:
    """Print the table; return the number of faults and leftovers."""
    record = soaked.record
    show("\n".join(record.details))
    rows: list[tuple[object, ...]] = [("kinds of requests, times questions", soaked.cases)]
    rows += [(f"answered: {manner}", count) for manner, count in sorted(record.answers.items())]
    rows += [(f"FAULT: {kind}", count) for kind, count in sorted(record.faults.items())]
    rows += [("left behind", ", ".join(soaked.left) or 0), ("tracebacks", soaked.traces)]
    rows.append((f"memory, MiB (at most +{MOST_GROWTH_MIB:g})", f"{soaked.growth_mib:+.1f}"))
    show(table((f"in {soaked.seconds:.0f} s", "value"), rows))
    faults = record.faults.total() + len(soaked.left) + soaked.traces
    answered = record.answers["whole"] > 0 and record.answers["stream"] > 0
    return Result(faults, holds=answered and soaked.growth_mib <= MOST_GROWTH_MIB)
