"""`python -m composer.mixtures.routers`: the table of routers in docs/routing.md."""

from __future__ import annotations

from composer.mixtures.routers import ROUTERS


def table() -> str:
    """Return all routers as a Markdown table, in the order of `ROUTERS`."""
    rows = [f"| `{r.name}` | `{r.formula}` | {r.citation} |" for r in ROUTERS]
    return "\n".join(["| router | weights | source |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())
