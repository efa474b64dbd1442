"""What a composition computes: formulas, recipes, routers, plans. No engine, no HTTP, no tensors.

Import `composer.vllm`, `composer.reference`, `composer.gate_training` and `composer.tensors`, which
need an engine or torch, by their names.
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
