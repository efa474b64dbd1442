"""`python -m adapters.weight_space.merge`: the README's table of methods."""

from __future__ import annotations

from adapters.weight_space.merge.methods import METHODS


def table() -> str:
    """Return all methods as a Markdown table, in the order of `METHODS`."""
    rows = [f"| `{m.name}` | `{m.formula}` | {m.citation} |" for m in METHODS]
    return "\n".join(["| method | merged delta | source |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())
