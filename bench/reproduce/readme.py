"""Writing measurements: text into README.md between markers, pictures into plots/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

README = Path(__file__).resolve().parent / "README.md"


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one reproduction: Markdown, and SVG pictures by file name."""

    text: str
    pictures: Mapping[str, str] = field(default_factory=dict)


def markers(section: str) -> tuple[str, str]:
    """Return the lines that enclose a section's measurements."""
    return f"<!-- {section} -->\n", f"<!-- /{section} -->"


def write(section: str, report: Report, readme: Path = README) -> None:
    """Replace the measurements of a section, and its pictures.

    Raises:
        ValueError: README.md lacks the markers of the section.
    """
    begin, end = markers(section)
    before, has_begin, rest = readme.read_text(encoding="utf-8").partition(begin)
    _, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise ValueError(f"{readme} lacks the lines {begin.strip()} and {end}; add them")
    readme.write_text(f"{before}{begin}{report.text}\n{end}{after}", encoding="utf-8")
    for name, picture in report.pictures.items():
        path = readme.parent / "plots" / f"{name}.svg"
        path.parent.mkdir(exist_ok=True)
        path.write_text(picture, encoding="utf-8")
