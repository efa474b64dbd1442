"""The routers that weigh all experts, and so may vote. A new one is a file and a line here."""

from __future__ import annotations

from typing import Any

from composer.mixtures.routers import confidence, fixed, posterior, prompt
from composer.mixtures.routers.router import RouterKind
from composer.mixtures.specs import WeightedMixtureSpec

# Any: each router has its own type of fields, and `build` takes exactly that type.
WEIGHING: tuple[RouterKind[Any, WeightedMixtureSpec], ...] = (
    fixed.ROUTER,
    prompt.ROUTER,
    posterior.ROUTER,
    confidence.ROUTER,
)
