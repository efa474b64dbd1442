"""The report of the check as Markdown, and what it says of the aims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.gpu.speed.kinds import BASE_ALONE, COMPOSED
from bench.measure import table

Report = dict[str, Any]
"""`title`, `date`, `commit`, `command`, `minutes`, `cuda`, and `parts`, each with its `name`,
`runner`, `seconds`, `error` and `sections` (`bench.gpu.part`)."""

ONE_ROW, ANY = 1.10, 1.03
"""The aims: at most this much of one base row, and of the same rows as plain requests."""

HEADINGS = {
    "token_ms": "ms per token",
    "token_p99_ms": "p99",
    "bound_ms": "by memory alone",
    "of_bound": "times that",
    "first_ms": "first token, ms",
    "tokens_per_s": "tokens per second",
    "to_plain_rows": "to plain rows",
}


def aims(report: Report) -> list[dict[str, Any]]:
    """Return the aims with what was measured of them; on a CPU they are not judged."""
    rows = [row for part in report["parts"] for row in _speed_rows(part)]
    alone = [row for row in rows if row["requests"] == 1]
    longest = max((row["answer"] for row in alone), default=0)
    long = {row["kind"]: row["token_ms"] for row in alone if row["answer"] == longest}
    one_row = None
    if COMPOSED in long and BASE_ALONE in long:
        one_row = long[COMPOSED] / long[BASE_ALONE]
    ratios = [row["to_plain_rows"] for row in rows if row["to_plain_rows"] is not None]
    return [
        _aim("composed three rows to one base row, one request", one_row, ONE_ROW, report["cuda"]),
        _aim(
            "composed three rows to plain rows, worst cell",
            max(ratios, default=None),
            ANY,
            report["cuda"],
        ),
    ]


def _aim(name: str, value: float | None, bound: float, judged: bool) -> dict[str, Any]:
    verdict = "rehearsed, not judged"
    if value is None:
        verdict = "not measured"
    elif judged:
        verdict = "ok" if value <= bound else "short"
    return {"aim": name, "value": value, "at most": bound, "verdict": verdict}


def failed(report: Report) -> bool:
    """Whether a part could not run, an answer was wrong, or an aim was missed."""
    sections = [section for part in report["parts"] for section in part["sections"]]
    return (
        any(part["error"] for part in report["parts"])
        or any(not section.get("passed", True) for section in sections)
        or any(aim["verdict"] == "short" for aim in aims(report))
    )


def render(report: Report) -> str:
    """Return the report as Markdown."""
    about = (
        f"{report['date']}, commit {report['commit']}, `{report['command']}`, "
        f"{report['minutes']:.1f} minutes."
    )
    blocks = [f"# {report['title']}", about, as_table(aims(report))]
    for part in report["parts"]:
        runner = f" on {part['runner'].upper()}" if part["runner"] else ""
        blocks.append(f"## {part['name'].capitalize()}{runner} ({part['seconds']:.0f} s)")
        if part["error"]:
            blocks.append(f"**Could not run**: {part['error']}")
        for section in part["sections"]:
            blocks += _section(section)
    return "\n\n".join(blocks) + "\n"


def _section(section: Mapping[str, Any]) -> Iterable[str]:
    passed = {True: ": passed", False: ": **failed**", None: ""}[section.get("passed")]
    partly = " as far as checked" if section.get("passed") and section["left_out"] else ""
    yield f"### {section['heading']}{passed}{partly}"
    if section["about"]:
        yield section["about"]
    if section["rows"]:
        yield as_table(section["rows"])
    if section["left_out"]:
        yield f"Left out, as the time was spent: {'; '.join(section['left_out'])}."


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with equal keys as a Markdown table."""
    header = [HEADINGS.get(key, key.replace("_", " ")) for key in rows[0]]
    return table(header, ([_cell(row[key]) for key in rows[0]] for row in rows))


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def _speed_rows(part: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    for section in part["sections"]:
        if section["heading"] == "Speed":
            yield from section["rows"]
