"""What the engine receives for one composed request.

A plan whose names are bound to adapters and whose prompts are token ids.

This is the only thing that crosses from the front end into the engine. It travels as one JSON
string in `SamplingParams.extra_args` (over HTTP: `vllm_xargs`), whose values may only be strings,
numbers and lists.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from composer.plan import Filter, FilterKind

ENGINE_ARG = "composition"
"""Key of the JSON string in `SamplingParams.extra_args`."""


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter generation as the engine knows it.

    `name` contains the digest of the content, because vLLM keys its prefix cache by this name;
    `id` is unique per generation and positive.
    """

    name: str
    id: int
    path: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the batch: one member of the composition.

    `prompt_token_ids` is None where the member reads the request's own prompt. `model` names the
    auxiliary model that computes the row, to which `adapter` then belongs; None is the base.
    """

    weight: float
    adapter: LoadedAdapter | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    model: str | None = None

    @property
    def may_lead(self) -> bool:
        """Whether it may be row 0: on the base model, and reading the request's own prompt."""
        return self.model is None and self.prompt_token_ids is None


@dataclass(frozen=True, slots=True)
class CompiledPlan:
    """Rows in the order of the plan's members; row 0 is the leader.

    The leader runs on the base model and reads the request's prompt: it is the request that vLLM
    knows (`CompiledPlan.led` finds or adds one). Filters point at rows by index.
    """

    rows: tuple[Row, ...]
    filters: tuple[Filter, ...] = ()

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("a compiled plan needs at least one row")
        if self.rows[0].prompt_token_ids is not None:
            raise ValueError("row 0, the leader, must read the request's own prompt")
        if self.rows[0].model is not None:
            raise ValueError(
                f"row 0, the leader, runs on {self.rows[0].model!r} instead of the base model; "
                "build the plan with CompiledPlan.led"
            )
        for row in self.rows:
            if not math.isfinite(row.weight):
                raise ValueError(f"weight {row.weight} is not a finite number")
            if row.prompt_token_ids is not None and not row.prompt_token_ids:
                raise ValueError("the prompt of a member is empty; give it at least one token")
        for f in self.filters:
            if not 0 <= f.member < len(self.rows):
                raise ValueError(f"filter {f.kind} names row {f.member} of {len(self.rows)}")

    @staticmethod
    def led(rows: Sequence[Row], filters: Sequence[Filter] = ()) -> CompiledPlan:
        """The plan of these rows with a row in front that may lead.

        The first such row moves there. If there is none, as in `small:chat - small`, a row of the
        base model with weight 0 is added: one more row to compute and to keep in the KV cache.
        """
        order = list(range(len(rows)))
        leader = next((k for k, row in enumerate(rows) if row.may_lead), None)
        if leader is None:
            moved = [Filter(f.kind, f.member + 1, f.value) for f in filters]
            return CompiledPlan((Row(0.0), *rows), tuple(moved))
        order.insert(0, order.pop(leader))
        moved = [Filter(f.kind, order.index(f.member), f.value) for f in filters]
        return CompiledPlan(tuple(rows[k] for k in order), tuple(moved))

    def to_extra_args(self) -> dict[str, str]:
        """The plan as `SamplingParams.extra_args` carry it."""
        rows = [
            {
                "weight": row.weight,
                "adapter": [row.adapter.name, row.adapter.id, row.adapter.path]
                if row.adapter
                else None,
                "prompt": list(row.prompt_token_ids) if row.prompt_token_ids is not None else None,
                "model": row.model,
            }
            for row in self.rows
        ]
        filters = [[f.kind.value, f.member, f.value] for f in self.filters]
        return {ENGINE_ARG: json.dumps({"rows": rows, "filters": filters}, separators=(",", ":"))}

    @staticmethod
    def from_extra_args(extra_args: Mapping[str, Any] | None) -> CompiledPlan | None:
        """The plan in `extra_args`, or None for a plain request.

        Raises:
            ValueError: the value is not what `to_extra_args` writes.
        """
        text = (extra_args or {}).get(ENGINE_ARG)
        if text is None:
            return None
        try:
            value = json.loads(text)
            rows = tuple(
                Row(
                    weight=float(row["weight"]),
                    adapter=LoadedAdapter(*row["adapter"]) if row["adapter"] else None,
                    prompt_token_ids=tuple(map(int, row["prompt"]))
                    if row["prompt"] is not None
                    else None,
                    model=row["model"],
                )
                for row in value["rows"]
            )
            filters = tuple(Filter(FilterKind(k), int(m), float(v)) for k, m, v in value["filters"])
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"'{ENGINE_ARG}' is not a compiled plan: {error}") from error
        return CompiledPlan(rows, filters)
