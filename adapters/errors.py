"""What can be wrong with an adapter."""

from __future__ import annotations

from pathlib import Path

from composer.errors import ComposerError


class AdapterError(ComposerError):
    """An adapter that cannot be served. The message names it, the reason and the remedy."""

    code = "invalid_adapter"

    def __init__(self, alias: str, path: Path | None, problem: str, remedy: str) -> None:
        where = f" ({path})" if path is not None else ""
        super().__init__(f"adapter '{alias}'{where}: {problem}. {remedy}")
        self.alias = alias
        self.problem = problem
        self.remedy = remedy
