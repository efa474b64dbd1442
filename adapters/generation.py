"""One version of an adapter, as the engine knows it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from composer.fields import BASE

_NAME = r"[A-Za-z_][A-Za-z0-9_.-]{0,63}"

ALIAS = re.compile(rf"(?:{_NAME}:)?{_NAME}")
"""Names that fit into a formula, a URL and a log line; `@` is reserved for engine names. A prefix
before a colon names the auxiliary model that the adapter belongs to, as in `small:chat`."""

ALIAS_RULE = "letters, digits, _ . and -, beginning with a letter or _, at most 64"
"""What messages call `ALIAS`."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One immutable version of an adapter: content, under the alias that it was published for.

    `digest` is the sha256 of the content, in hex; `number` is the engine's id for it, positive and
    unique among the generations of one process.
    """

    alias: str
    digest: str
    path: Path
    rank: int
    number: int

    @property
    def engine_name(self) -> str:
        """Return the engine's name of this generation."""
        return engine_name(self.alias, self.digest)

    @property
    def model(self) -> str | None:
        """Return the auxiliary model of this generation; None for the base model."""
        return model_of(self.alias)


def engine_name(alias: str, digest: str) -> str:
    """Return a name that changes with the content: vLLM keys its prefix cache by this name."""
    return f"{alias}@{digest[:12]}"


def model_of(alias: str) -> str | None:
    """Return the auxiliary model that an alias belongs to; None for the base model."""
    return alias.partition(":")[0] if ":" in alias else None


def alias_of(folder: Path) -> str:
    """Return the name of a folder where an alias may have that name, else "adapter"."""
    name = folder.name
    return name if ALIAS.fullmatch(name) and name != BASE else "adapter"
