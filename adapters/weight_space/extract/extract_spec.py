"""The request for an extraction."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from composer.fields import Fields, Flag

MAX_RANK = 512
"""Largest rank that vLLM serves (`MaxLoRARanks` in vllm/config/lora.py)."""

Rank = Annotated[int, Field(strict=True, ge=1)]


class ExtractSpec(Fields):
    """How much of each module's change to keep: give either `energy` or `rank`."""

    energy: Annotated[float, Field(strict=True, gt=0, le=1)] | None = None
    """Share of the squared singular values that each module keeps. The rank of a module is the
    smallest that keeps this share, at most `max_rank`."""

    rank: Rank | None = None
    """Rank of every module; a module whose change has a lower rank gets that."""

    max_rank: Rank = MAX_RANK
    """Largest rank with `energy`."""

    ignore_other_changes: Flag = False
    """Extract even if tensors changed that an adapter cannot hold: norms, biases, embeddings."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the adapter's tensors."""

    seed: Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)] = 0
    """Seed of the randomized decomposition of large modules."""

    base_model: str | None = None
    """Name of the base model in the adapter's configuration; by default its folder."""

    @model_validator(mode="after")
    def _check_size(self) -> ExtractSpec:
        if (self.energy is None) == (self.rank is None):
            raise ValueError("give either 'energy' or 'rank'")
        return self
