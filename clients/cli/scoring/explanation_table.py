"""Explanations of answers as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from clients import errors
from clients.cli.tables import print_table

if TYPE_CHECKING:
    from clients.responses import ExplainedAnswer, ExplainedToken, Explanation, ExplanationSummary


def joined(parts: Iterable[Explanation]) -> Explanation | None:
    """Return the explanation that a stream has sent in parts; None if there was none."""
    parts = list(parts)
    if not parts:
        return None
    by_index: dict[int, list[ExplainedAnswer]] = {}
    for part in parts:
        for answer in part.answers:
            by_index.setdefault(answer.index, []).append(answer)
    answers = [
        pieces[-1].model_copy(update={"tokens": tuple(t for p in pieces for t in p.tokens)})
        for _, pieces in sorted(by_index.items())
    ]
    return parts[-1].model_copy(update={"answers": tuple(answers)})


def print_explanation(explanation: Explanation | None) -> None:
    """Print a table of each answer's tokens, with their means."""
    if explanation is None:
        raise errors.InvalidResponse(
            "the answer is not explained: the server does not know the field 'explain', or "
            "something on the way dropped it"
        )
    for answer in explanation.answers:
        if len(explanation.answers) > 1:
            print(f"answer {answer.index}")
        header = _header(explanation.members, answer.tokens)
        rows = [header, *map(_row, answer.tokens)]
        if answer.summary is not None:
            rows.append(_means(answer.summary))
        print_table([(*row, *[""] * (len(header) - len(row))) for row in rows], numbers=True)


def _header(members: Sequence[str], tokens: Sequence[ExplainedToken]) -> tuple[str, ...]:
    names = ["token", "logprob"]
    if tokens and tokens[0].model is not None:
        return (*names, "computed by")
    names += members
    return (*names, "KL from base", "base's choice") if tokens and tokens[0].base else (*names,)


def _row(token: ExplainedToken) -> tuple[str, ...]:
    cells = [repr(token.token), f"{token.logprob:.3f}"]
    if token.model is not None:
        return (*cells, token.model)
    cells += _numbers(token.contributions or token.responsibilities)
    if token.base is not None:
        cells.append("-" if token.base.kl is None else f"{token.base.kl:.3f}")
        cells.append(repr(token.base.best[0].token) if token.changed else "")
    return (*cells,)


def _means(summary: ExplanationSummary) -> tuple[str, ...]:
    cells = ["mean", "-" if summary.logprob is None else f"{summary.logprob:.3f}"]
    cells += _numbers(summary.contributions or summary.responsibilities)
    if summary.changed is not None:
        cells += ["-" if summary.kl is None else f"{summary.kl:.3f}"]
        cells += [f"{summary.changed:.0%} changed"]
    return (*cells,)


def _numbers(values: Iterable[float | None]) -> list[str]:
    return ["-" if value is None else f"{value:+.3f}" for value in values]
