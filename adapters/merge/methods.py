"""The methods, in the order of the README's table."""

from __future__ import annotations

from adapters.merge import dare, lines, model_stock, slack, sums, ties, wise_ft
from adapters.merge.method import Method

METHODS: tuple[Method, ...] = (
    sums.SUM,
    sums.SVD,
    ties.METHOD,
    dare.LINEAR,
    dare.TIES,
    wise_ft.METHOD,
    lines.METHOD,
    model_stock.METHOD,
    slack.METHOD,
)
