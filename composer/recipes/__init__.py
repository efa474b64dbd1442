"""Published methods, as data. A new one is a file and a line in RECIPES."""

from __future__ import annotations

from typing import Any

from composer.recipes import (
    classifier_free_guidance,
    context_aware,
    contrastive,
    copilot,
    dexperts,
    emulated_fine_tuning,
    mixture,
    proxy_tuning,
    value_augmented,
)
from composer.recipes.recipe import Filters, Recipe, Terms

__all__ = ["RECIPES", "Filters", "Recipe", "Terms"]

# Any: each recipe has its own type of fields, and `build` takes exactly that type.
RECIPES: tuple[Recipe[Any], ...] = (
    proxy_tuning.RECIPE,
    emulated_fine_tuning.RECIPE,
    dexperts.RECIPE,
    contrastive.RECIPE,
    classifier_free_guidance.RECIPE,
    context_aware.RECIPE,
    value_augmented.RECIPE,
    copilot.RECIPE,
    mixture.RECIPE,
)
