"""The sums over the lines that `composer score` writes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clients.cli.scoring.resumed_output import Line


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


@dataclass(frozen=True, slots=True)
class DistanceTotal:
    """The score of another composition, and how far the first is from it."""

    score: ScoreTotal
    divergence: float  # KL in nats per token

    @staticmethod
    def of(scores: Sequence[Mapping[str, Any]]) -> DistanceTotal:
        """Sum up the scores of items, which have divergences."""
        values = [value for score in scores for value in score["token_divergences"]]
        return DistanceTotal(ScoreTotal.of(scores), sum(values) / len(values))

    def __str__(self) -> str:
        return f"{self.score}; KL {self.divergence:.4g} per token"


def totals(lines: Sequence[Line]) -> Iterator[tuple[str, ScoreTotal | DistanceTotal]]:
    """Yield a name and the sums: of the composition, of each member that was scored alone, and of
    each composition that it was compared with."""
    count = sum(len(line["token_logprobs"]) for line in lines)
    yield f"{len(lines)} items, {count} tokens", ScoreTotal.of(lines)
    alone: dict[str, list[Line]] = {}
    for line in lines:
        for member in line.get("members", ()):
            alone.setdefault(member["model"], []).append(member)
    for model, scores in alone.items():
        yield f"{model} alone", ScoreTotal.of(scores)
    others = zip(*(line.get("against", ()) for line in lines), strict=True)
    for compared in others:
        yield compared[0]["model"], DistanceTotal.of(compared)
