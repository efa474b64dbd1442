"""The base of all models of the server's answers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Wire(BaseModel):
    """Base of all models: frozen; unknown fields are attributes, too."""

    model_config = ConfigDict(extra="allow", frozen=True)
