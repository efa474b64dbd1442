"""Routers of mixtures, as data. A new one is a file and a line: here, or in WEIGHING."""

from __future__ import annotations

from typing import Any

from composer.mixtures.routers import gate, sequence, vote
from composer.mixtures.routers.router import RouterKind
from composer.mixtures.routers.weighing import WEIGHING
from composer.mixtures.specs import Router

__all__ = ["ROUTERS", "RouterKind"]

# Any: each router has its own type of fields, and `build` takes exactly that type.
ROUTERS: tuple[RouterKind[Any, Router], ...] = (
    *WEIGHING,
    vote.ROUTER,
    gate.ROUTER,
    sequence.ROUTER,
)
