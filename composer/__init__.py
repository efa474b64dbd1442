"""What a composition computes: formulas, recipes, routers, plans. No engine, no HTTP, no tensors.

`composer.vllm` and `composer.reference`, which need an engine, and `composer.tensors`, which needs
torch, are imported by name only.
"""

from __future__ import annotations

from composer.errors import ComposerError, CompositionError, EngineFault
from composer.fields import BASE
from composer.filters import Filter, FilterKind
from composer.plan import Limits, Member, Plan, normalize
from composer.recipes import RECIPES, Recipe
from composer.request import parse_composition

__all__ = [
    "BASE",
    "RECIPES",
    "ComposerError",
    "CompositionError",
    "EngineFault",
    "Filter",
    "FilterKind",
    "Limits",
    "Member",
    "Plan",
    "Recipe",
    "normalize",
    "parse_composition",
]
