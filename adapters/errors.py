"""What can go wrong with adapters, as one tree.

    ComposerError
    ├── AdapterError             the adapter cannot be served: HTTP 400
    ├── PolicyError              the policy has a wrong field or type: HTTP 400
    ├── ProfileError             the same of the examples and the description: HTTP 400
    ├── SourceError              the source may not be read, or is not an adapter: HTTP 400
    ├── MergeError               the merge or extraction cannot be computed: HTTP 400
    ├── AdapterNotFoundError     no such adapter, version or content: HTTP 404
    ├── CompositionNotFoundError no such stored composition or version: HTTP 404
    ├── CompositionOwnerError    the stored composition belongs to another key: HTTP 403
    ├── CompositionLimitError    the key has as many compositions as it may: HTTP 409
    ├── NameTakenError           the name stands for something else: HTTP 409
    ├── VersionConflictError     the name is not at the version that the caller expects: HTTP 409
    ├── AdapterStoreError        the store cannot be read or written: HTTP 500
    │   ├── StoreFullError       its disk is full: HTTP 507
    │   └── StoreReadOnlyError   it cannot be written from here: HTTP 503
    └── SourceUnavailableError   the network or the hub failed: HTTP 502

Every message names the offending value and the remedy, because it is all that a client sees.
"""

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


class PolicyError(ComposerError):
    """A policy has an unknown field, or a value of the wrong type."""

    code = "invalid_policy"


class ProfileError(ComposerError):
    """A profile has an unknown field, a value of the wrong type, or too much text."""

    code = "invalid_profile"


class SourceError(ComposerError):
    """A source outside the root and the allow-list, without an adapter, too large, or unsafe."""

    code = "source_refused"


class MergeError(ComposerError):
    """Adapters or models that cannot be merged or extracted as asked."""

    code = "invalid_merge"


class AdapterNotFoundError(ComposerError):
    """No adapter has this alias, this version or this digest."""

    code = "adapter_not_found"


class CompositionNotFoundError(ComposerError):
    """No stored composition has this name, or this version."""

    code = "composition_not_found"


class CompositionOwnerError(ComposerError):
    """A stored composition belongs to another key."""

    code = "composition_not_yours"


class CompositionLimitError(ComposerError):
    """A key has as many stored compositions as it may have."""

    code = "composition_limit"


class NameTakenError(ComposerError):
    """A name stands for the base model, an adapter or a composition already."""

    code = "name_taken"


class VersionConflictError(ComposerError):
    """An alias or a composition is at another version, or has another content, than expected."""

    code = "version_conflict"


class AdapterStoreError(ComposerError):
    """The store cannot be read or written: disk full, journal damaged, files damaged or gone."""

    code = "adapter_store_unavailable"


class StoreFullError(AdapterStoreError):
    """The disk of the store, or the quota of its user, is full."""

    code = "adapter_store_full"


class StoreReadOnlyError(AdapterStoreError):
    """The store can be read but not written: permissions, or a read-only file system."""

    code = "adapter_store_read_only"


class SourceUnavailableError(ComposerError):
    """A remote source did not answer, or broke off."""

    code = "source_unavailable"
