"""Which LoRA adapters exist, what they stand for, and who uses them.

This package knows neither the engine nor HTTP. Importing it does not load torch; the code that
computes with weights is in `adapters.weight_space`.
"""

from adapters.errors import (
    AdapterError,
    AdapterNotFoundError,
    AdapterStoreError,
    CompositionLimitError,
    CompositionNotFoundError,
    CompositionOwnerError,
    MergeError,
    NameTakenError,
    PolicyError,
    ProfileError,
    SourceError,
    SourceUnavailableError,
    StoreFullError,
    StoreReadOnlyError,
    VersionConflictError,
)
from adapters.fetch.archive import unpack
from adapters.fetch.sources import SourceRules, fetch
from adapters.files import CONFIG, WEIGHTS
from adapters.generation import ALIAS, Generation, model_of
from adapters.inspection.inspect import inspect
from adapters.inspection.model_shapes import ModelShapes
from adapters.registry import Lease, Registry, Served
from adapters.store.composition_store import Compositions
from adapters.store.composition_version import CompositionVersion
from adapters.store.objects import StoredAdapter
from adapters.store.policy import Policy
from adapters.store.profile import EMPTY_PROFILE, Profile
from adapters.store.store import Store
from adapters.store.version import Action, Version

__all__ = [
    "ALIAS",
    "CONFIG",
    "EMPTY_PROFILE",
    "WEIGHTS",
    "Action",
    "AdapterError",
    "AdapterNotFoundError",
    "AdapterStoreError",
    "CompositionLimitError",
    "CompositionNotFoundError",
    "CompositionOwnerError",
    "CompositionVersion",
    "Compositions",
    "Generation",
    "Lease",
    "MergeError",
    "ModelShapes",
    "NameTakenError",
    "Policy",
    "PolicyError",
    "Profile",
    "ProfileError",
    "Registry",
    "Served",
    "SourceError",
    "SourceRules",
    "SourceUnavailableError",
    "Store",
    "StoreFullError",
    "StoreReadOnlyError",
    "StoredAdapter",
    "Version",
    "VersionConflictError",
    "fetch",
    "inspect",
    "model_of",
    "unpack",
]
