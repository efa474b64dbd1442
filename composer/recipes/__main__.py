"""`python -m composer.recipes`: the table of recipes in docs/choosing-a-method.md."""

from __future__ import annotations

from composer.recipes import RECIPES


def table() -> str:
    """Return all recipes as a Markdown table, in the order of `RECIPES`."""
    rows = [f"| `{r.name}` | `{r.formula}` | {r.citation} |" for r in RECIPES]
    return "\n".join(["| recipe | computes | source |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())
