"""Who may use a stored composition, and who sees what it says."""

from __future__ import annotations

from adapters import CompositionVersion
from composer.request import holds_prompts
from server.auth.keys import Key, Role


def is_for(version: CompositionVersion, key: Key) -> bool:
    """Whether a key may use it: it is named among the key's models, or it is the key's own."""
    return key.may_use(version.name) or version.owner == key.name


def sees(version: CompositionVersion, key: Key) -> bool:
    """Whether a key sees all of a version: it is its owner's, or an administrator's."""
    return version.owner == key.name or key.may(Role.ADMIN)


def is_private(version: CompositionVersion, key: Key) -> bool:
    """Whether a version has prompts that the key must not see."""
    return not sees(version, key) and holds_prompts(version.content)
