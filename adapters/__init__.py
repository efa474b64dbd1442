"""Which LoRA adapters exist, what they stand for, and who uses them.

Nothing here knows the engine or HTTP, and nothing that is imported from here loads torch: what
computes with weights is in `adapters.merge`, `adapters.extract` and `adapters.patch`.
"""

from adapters.archives import unpack
from adapters.composition_version import CompositionVersion, Json
from adapters.compositions import Compositions
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
from adapters.files import CONFIG, WEIGHTS
from adapters.generation import ALIAS, BASE, Generation, model_of
from adapters.inspection import inspect
from adapters.objects import StoredAdapter
from adapters.policy import Policy
from adapters.profile import UNSAID, Profile
from adapters.registry import Lease, Registry, Served
from adapters.shapes import ModelShapes
from adapters.sources import SourceRules, fetch
from adapters.store import Store
from adapters.version import Action, Version

__all__ = [
    "ALIAS",
    "BASE",
    "CONFIG",
    "UNSAID",
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
    "Json",
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
