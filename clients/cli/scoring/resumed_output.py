"""Output files of commands that go on where they ended: JSON lines with a digest of their item."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

from typer import Option

from clients.cli.local_work import REFUSED, failure

Line = dict[str, Any]

Output = Annotated[
    Path | None,
    Option(metavar="OUT", help="A file; run again, the command goes on where it ended."),
]


def digests(items: Iterable[Mapping[str, object]], asked: Mapping[str, object]) -> list[str]:
    """Return what identifies each item together with what is asked of it: 16 hex digits."""
    return [
        hashlib.sha256(json.dumps([item, asked], sort_keys=True).encode()).hexdigest()[:16]
        for item in items
    ]


def resume(output: Path, expected: Sequence[str]) -> list[Line]:
    """Return the lines that `output` has already, and cut off a line that was not written whole.

    Args:
        output: the file, which need not exist.
        expected: digest of each item; line k must have that of item k.

    Raises:
        OSError: the file cannot be read or written.
        TyperException: a line is of another item or another composition.
    """
    if not output.exists():
        return []
    text = output.read_bytes()
    whole = text.rpartition(b"\n")[0]
    lines = [_read(line) for line in whole.split(b"\n")] if whole else []
    for number, line in enumerate(lines, 1):
        if number > len(expected) or line.get("digest") != expected[number - 1]:
            raise failure(
                REFUSED,
                f"'{output}', line {number} does not belong to these items and this composition; "
                "give another --output, or remove that file to begin again",
            )
    if len(text) > len(whole) + 1:
        with output.open("r+b") as file:
            file.truncate(len(whole) + 1 if whole else 0)
    return lines


def _read(line: bytes) -> Line:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


@contextmanager
def opened(output: Path | None) -> Iterator[IO[str]]:
    """Open a file for appending; without one, yield standard output."""
    if output is None:
        yield sys.stdout
        return
    with output.open("a", encoding="utf-8") as file:
        yield file
