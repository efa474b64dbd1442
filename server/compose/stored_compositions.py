"""Who may use a stored composition, and who may see its content."""

from __future__ import annotations

from adapters import CompositionVersion
from composer.request import holds_prompts
from server.auth.keys import Key, Role


def is_for(version: CompositionVersion, key: Key) -> bool:
    """Return whether a key may use a version: it names it among its models, or has stored it."""
    return key.may_use(version.name) or version.owner == key.name


def sees(version: CompositionVersion, key: Key) -> bool:
    """Return whether a key sees all of a version: the owner and administrators do."""
    return version.owner == key.name or key.may(Role.ADMIN)


def is_private(version: CompositionVersion, key: Key) -> bool:
    """Return whether a version has prompts that the key must not see."""
    return not sees(version, key) and holds_prompts(version.content)
