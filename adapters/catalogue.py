"""The adapters of one server: immutable generations and the aliases that people use."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import AdapterError

BASE = "base"
"""The name of the base model, which no adapter may take."""

ALIAS = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
"""Names that a formula, a URL and a log line can carry; `@` is left to engine names."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One immutable version of an adapter. `digest` is the sha256 of its content, in hex."""

    alias: str
    digest: str
    path: Path
    rank: int

    @property
    def engine_name(self) -> str:
        """The engine's name for it: other content, other name, so no stale prefix cache."""
        return f"{self.alias}@{self.digest[:12]}"

    @property
    def id(self) -> int:
        """The engine's number for it: positive, 31 bits, a function of alias and content.

        The alias takes part because one content under two aliases has two engine names, and the
        engine wants one number per name.
        """
        seed = f"{self.digest}{self.alias}".encode()
        return int.from_bytes(hashlib.sha256(seed).digest()[:4], "big") % (2**31 - 1) + 1


class Catalogue:
    """Alias to generation. A value: a changed set of adapters is a new catalogue."""

    def __init__(self, generations: Iterable[Generation] = ()) -> None:
        """Raises `AdapterError` where an alias or an engine id would be ambiguous."""
        self._by_alias: dict[str, Generation] = {}
        by_id: dict[int, Generation] = {}
        for new in generations:
            if new.alias in self._by_alias:
                raise AdapterError(
                    new.alias, new.path, "the name is given twice", "Give each adapter its own name"
                )
            if (other := by_id.setdefault(new.id, new)) is not new:
                raise AdapterError(
                    new.alias,
                    new.path,
                    f"its engine id {new.id} is also that of '{other.alias}'",
                    "Rename one of the two",
                )
            self._by_alias[new.alias] = new

    def get(self, alias: str) -> Generation | None:
        """The generation that the alias points at."""
        return self._by_alias.get(alias)

    def names(self) -> tuple[str, ...]:
        """All aliases, in the order given."""
        return tuple(self._by_alias)

    def generations(self) -> tuple[Generation, ...]:
        """All generations, in the order given."""
        return tuple(self._by_alias.values())

    @property
    def max_rank(self) -> int:
        """The largest rank of any adapter, 0 without adapters."""
        return max((g.rank for g in self._by_alias.values()), default=0)

    def __len__(self) -> int:
        return len(self._by_alias)
