"""Lists: aligned for people, JSON lines for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

from typer import Option

if TYPE_CHECKING:
    from pydantic import BaseModel

JsonLines = Annotated[
    bool | None,
    Option(
        "--json/--no-json",
        help="Print JSON, one object a line. Default: unless the output is a terminal.",
        show_default=False,
    ),
]
Json = Annotated[bool, Option("--json", help="Print the whole answer as JSON.")]


def wants_lines(json: bool | None) -> bool:
    """Return whether a list is printed as JSON lines: on request, or into a pipe or a file."""
    return not sys.stdout.isatty() if json is None else json


def print_lines(items: Iterable[BaseModel]) -> None:
    """Print one JSON object per line, with the fields that the server sent."""
    for item in items:
        print(item.model_dump_json(exclude_unset=True))


def print_table(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> None:
    """Print aligned columns; with `numbers`, all but the first are aligned right."""
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{cell:>{width}}" if numbers and place else f"{cell:{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def size(size_bytes: int) -> str:
    """Return a size in kB, or in MB from a million bytes on."""
    if size_bytes < 10**6:
        return f"{size_bytes / 10**3:.1f} kB"
    return f"{size_bytes / 10**6:.1f} MB"
