"""Where measurements go: text into README.md between markers, pictures into plots/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

README = Path(__file__).resolve().parent / "README.md"


@dataclass(frozen=True, slots=True)
class Report:
    """What one reproduction found: Markdown, and SVG pictures by the name of their file."""

    text: str
    pictures: Mapping[str, str] = field(default_factory=dict)


def markers(section: str) -> tuple[str, str]:
    """The lines between which a section's measurements stand."""
    return f"<!-- {section} -->\n", f"<!-- /{section} -->"


def write(section: str, report: Report, readme: Path = README) -> None:
    """Replace the measured part of a section, and its pictures.

    Raises:
        ValueError: README.md has no such part.
    """
    begin, end = markers(section)
    before, found, rest = readme.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"{readme} lacks the lines {begin.strip()} and {end}; add them")
    readme.write_text(f"{before}{begin}{report.text}\n{end}{after}", encoding="utf-8")
    for name, picture in report.pictures.items():
        path = readme.parent / "plots" / f"{name}.svg"
        path.parent.mkdir(exist_ok=True)
        path.write_text(picture, encoding="utf-8")
