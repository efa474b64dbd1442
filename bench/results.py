"""Recorded results: one JSON line per measurement, rendered as RESULTS.md.

`python -m bench.claims --record NAME...` appends records; `python -m bench.results` renders them.
"""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.claim import Claim, Result
from bench.claims import CLAIMS
from bench.measure import table

FOLDER = Path(__file__).resolve().parent
RECORDS = FOLDER / "results" / "claims.jsonl"
RESULTS = FOLDER / "RESULTS.md"

_HEAD = """\
# Results

Written by `python -m bench.results` from [`results/claims.jsonl`](results/claims.jsonl): the latest
record of every claim. [README.md](README.md) says what each claim measures and how.
`python -m bench.claims --record NAME` measures a claim again and updates this page. The commit is
the one that was measured, or in which the value was first reported; `-dirty` marks uncommitted
changes.
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """Hardware of a measurement; None marks what was not recorded."""

    processor: str
    cores: int
    memory_gib: int | None = None
    gpu: str | None = None

    def __str__(self) -> str:
        memory = f"{self.memory_gib} GiB" if self.memory_gib else "memory not recorded"
        return ", ".join(
            (self.processor, f"{self.cores} cores", memory, *([self.gpu] if self.gpu else []))
        )


@dataclass(frozen=True, slots=True)
class Record:
    """One measured value of a claim."""

    claim: str
    value: float
    bound: float
    holds: bool
    date: str  # YYYY-MM-DD
    commit: str
    machine: Machine
    note: str = ""


def record(claim: Claim, result: Result) -> None:
    """Append a result, measured at the current commit on this machine, and render RESULTS.md."""
    from bench.machine.hardware import this_machine  # imports torch

    today = datetime.date.today().isoformat()
    holds = claim.is_met(result)
    machine = Machine(**this_machine())
    entry = Record(claim.name, result.value, claim.bound, holds, today, commit(), machine)
    RECORDS.parent.mkdir(exist_ok=True)
    with RECORDS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(entry)) + "\n")
    RESULTS.write_text(render(read(RECORDS)), encoding="utf-8")


def read(path: Path = RECORDS) -> list[Record]:
    """Return all records, oldest first."""
    lines = path.read_text(encoding="utf-8").splitlines()
    fields = [json.loads(line) for line in lines]
    return [Record(**entry | {"machine": Machine(**entry["machine"])}) for entry in fields]


def render(records: Iterable[Record]) -> str:
    """Return RESULTS.md: the last record of each claim, in the order of `CLAIMS`."""
    latest = {record.claim: record for record in records}
    header = ("claim", "value", "bound", "holds", "date", "commit", "machine", "note")
    rows = []
    for claim in CLAIMS:
        if (entry := latest.get(claim.name)) is None:
            rows.append((f"`{claim.name}`", "not recorded", *[""] * 6))
            continue
        bound = f"{claim.sense} {entry.bound:g} {claim.unit}".rstrip()
        value = f"{entry.value:.5g} {claim.unit}".rstrip()
        holds = "yes" if entry.holds else "no"
        rows.append(
            (
                *(f"`{claim.name}`", value, bound, holds, entry.date, f"`{entry.commit}`"),
                *(str(entry.machine), entry.note),
            )
        )
    return f"{_HEAD}\n{table(header, rows)}\n"


def commit() -> str:
    """Return the current commit, with `-dirty` if files other than the records were changed.

    "not recorded" without git, and outside a repository.
    """
    if shutil.which("git") is None or not (FOLDER.parent / ".git").exists():
        return "not recorded"
    git = ("git", "-C", str(FOLDER))
    commit = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True).strip()
    others = (":/", ":(exclude)results/claims.jsonl", ":(exclude)RESULTS.md")
    changed = subprocess.check_output(
        [*git, "status", "--porcelain", "--untracked-files=no", "--", *others], text=True
    )
    return f"{commit}-dirty" if changed else commit


if __name__ == "__main__":
    RESULTS.write_text(render(read()), encoding="utf-8")
