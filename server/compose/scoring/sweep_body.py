"""The body of `POST /v1/compose/sweep`."""

from __future__ import annotations

import math
from itertools import product
from typing import Annotated

from pydantic import Field, model_validator

from composer.fields import Fields, Number
from server.compose.scoring.score_bodies import MAX_COMPOSITIONS, Beginning, Tokens

MAX_POINTS = MAX_COMPOSITIONS
"""Points of one grid: a reference is scored under all of them in one pass."""

Point = dict[str, Number]
"""Values of free names."""


class Sampling(Fields):
    """How the answers are sampled: at every point in the same way."""

    max_tokens: Annotated[int, Field(strict=True, ge=1)] = 128
    """Longest answer, in tokens."""

    temperature: Annotated[Number, Field(ge=0)] = 0.0
    """0 takes the likeliest token, so that answers differ by their weights only."""

    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Sample from the likeliest tokens that have this probability together."""

    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] | None = None
    """Of the sampler, the same at every point."""

    stop: str | list[str] | None = None
    """Texts that end an answer."""


class SweepBody(Beginning, Sampling):
    """One prompt or conversation, and a grid of weights that answer it."""

    formula: Annotated[str, Field(min_length=1)]
    """A sum with free names, such as `chat + a*(polite - rude)`."""

    values: Annotated[
        dict[str, Annotated[list[Number], Field(min_length=1)]] | None, Field(min_length=1)
    ] = None
    """Values of each free name; the grid has every combination."""

    points: Annotated[list[Point], Field(min_length=1, max_length=MAX_POINTS)] | None = None
    """In place of `values`: the values of all free names at each point."""

    reference: Annotated[str, Field(min_length=1)] | Tokens | None = None
    """An answer whose log-probability is computed at each point, too."""

    @model_validator(mode="after")
    def _one_grid(self) -> SweepBody:
        if (self.values is None) == (self.points is None):
            raise ValueError("give either 'values' or 'points'")
        if self.values is not None:
            sizes = [len(values) for values in self.values.values()]
            if (count := math.prod(sizes)) > MAX_POINTS:
                grid = " x ".join(map(str, sizes))
                raise ValueError(
                    f"the grid has {grid}{f' = {count}' if len(sizes) > 1 else ''} points, and a "
                    f"sweep takes at most {MAX_POINTS}; give fewer values, or send several sweeps"
                )
        return self

    def grid(self) -> list[Point]:
        """Return the points in order: of `values`, the last name varies fastest."""
        if self.points is not None:
            return self.points
        assert self.values is not None
        return [
            dict(zip(self.values, combination, strict=True))
            for combination in product(*self.values.values())
        ]

    def sampling(self) -> dict[str, object]:
        """Return the fields of a request that sample as this one does."""
        return self.model_dump(include=set(Sampling.model_fields), exclude_none=True)
