"""The request for a conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from adapters.weight_space.extract.extract_spec import Rank
from composer.fields import Fields


class ConvertJob(Fields):
    """Convert the adapter in a folder, trained on the model in `base`, into plain LoRA.

    Without `rank` and `energy` only an exact conversion is accepted.
    """

    adapter: Path
    base: Path

    initial: Path | None = None
    """The same adapter as it was before training, for an initialization that changed the base."""

    rank: Rank | None = None
    """Largest rank of a module: accept the error that this makes."""

    energy: Annotated[float, Field(strict=True, gt=0, le=1)] | None = None
    """Share of the squared singular values of its change that each module keeps at least."""

    base_model: str | None = None
    """Name of the base model in the configuration; by default that of the adapter."""

    @model_validator(mode="after")
    def _check_size(self) -> ConvertJob:
        if self.rank is not None and self.energy is not None:
            raise ValueError("give either 'energy' or 'rank'")
        return self
