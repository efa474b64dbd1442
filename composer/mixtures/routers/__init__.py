"""Routers of mixtures, as data. A new one is a file and a line in ROUTERS."""

from __future__ import annotations

from typing import Any

from composer.mixtures.routers import confidence, fixed, gate, posterior, prompt, sequence, vote
from composer.mixtures.routers.router import RouterKind
from composer.mixtures.specs import Router

__all__ = ["ROUTERS", "RouterKind"]

# Any: every router has fields of its own type, and `build` takes exactly those.
ROUTERS: tuple[RouterKind[Any, Router], ...] = (
    fixed.ROUTER,
    prompt.ROUTER,
    posterior.ROUTER,
    confidence.ROUTER,
    vote.ROUTER,
    gate.ROUTER,
    sequence.ROUTER,
)
