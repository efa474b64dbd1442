"""The lines that `composer score` writes, and those that an earlier run has left in its output."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.cli.local_work import REFUSED, failure

Line = dict[str, Any]


def digests(items: Iterable[Mapping[str, object]], asked: Mapping[str, object]) -> list[str]:
    """Return what identifies each item together with what scores it: 16 hex digits."""
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


@dataclass(frozen=True, slots=True)
class ScoreTotal:
    """Sums over items. Those that the composition cannot produce are counted, and left out."""

    items: int
    tokens: int
    logprob: float
    impossible: int

    @staticmethod
    def of(scores: Sequence[Mapping[str, Any]]) -> ScoreTotal:
        """Sum up the scores of items."""
        possible = [score for score in scores if not score["impossible"]]
        return ScoreTotal(
            len(scores),
            sum(len(score["token_logprobs"]) for score in possible),
            sum(score["logprob"] for score in possible),
            len(scores) - len(possible),
        )

    def __str__(self) -> str:
        left_out = f"{self.impossible} of {self.items} impossible and left out"
        if not self.tokens:
            return left_out
        mean = self.logprob / self.tokens
        text = (
            f"log-probability {self.logprob:.4f}, {mean:.4f} per token, "
            f"perplexity {math.exp(-mean):.6g}"
        )
        return f"{text}; {left_out}" if self.impossible else text


def totals(lines: Sequence[Line]) -> Iterator[tuple[str, ScoreTotal]]:
    """Yield a name and the sums: of the composition, and of each member that was scored alone."""
    count = sum(len(line["token_logprobs"]) for line in lines)
    yield f"{len(lines)} items, {count} tokens", ScoreTotal.of(lines)
    alone: dict[str, list[Line]] = {}
    for line in lines:
        for member in line.get("members", ()):
            alone.setdefault(member["model"], []).append(member)
    for model, scores in alone.items():
        yield f"{model} alone", ScoreTotal.of(scores)
