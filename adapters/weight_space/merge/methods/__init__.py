"""The merging methods, in the order of the documentation's table."""

from __future__ import annotations

from adapters.weight_space.merge.method import Method
from adapters.weight_space.merge.methods import (
    dare,
    interpolation,
    model_stock,
    slack,
    sums,
    ties,
    wise_ft,
)

METHODS: tuple[Method, ...] = (
    sums.SUM,
    sums.SVD,
    ties.METHOD,
    dare.LINEAR,
    dare.TIES,
    wise_ft.METHOD,
    interpolation.METHOD,
    model_stock.METHOD,
    slack.METHOD,
)
