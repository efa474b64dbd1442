"""Cases of the comparison: sets of the zoo's adapters, and the tasks to solve with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from composer.formula import parse


@dataclass(frozen=True, slots=True)
class Case:
    """Tasks, and for each task the formula over the zoo's adapters that should solve it."""

    name: str
    formulas: Mapping[str, str]

    @staticmethod
    def of_skills(name: str, *skills: str) -> Case:
        """Return a case with one formula for all tasks: the sum of their adapters."""
        return Case(name, dict.fromkeys(skills, " + ".join(skills)))

    @property
    def unweighted(self) -> bool:
        return all(w == 1 for text in self.formulas.values() for _, w in parse(text))


CASES = (
    Case.of_skills("two", "arithmetic", "sort"),
    Case(
        "manners",
        {"polite": "chat + 0.8*(polite - rude)", "rude": "chat + 0.8*(rude - polite)"},
    ),
    Case.of_skills("four", "arithmetic", "sort", "count", "chat"),
)
