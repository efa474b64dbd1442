"""What the OpenAPI document says of our own routes beside what FastAPI derives: bodies, examples,
and the errors that each can give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from adapters import (
    CONFIG,
    WEIGHTS,
    AdapterError,
    AdapterNotFoundError,
    AdapterStoreError,
    CompositionLimitError,
    CompositionNotFoundError,
    CompositionOwnerError,
    MergeError,
    NameTakenError,
    Policy,
    PolicyError,
    Profile,
    ProfileError,
    SourceError,
    SourceUnavailableError,
    StoreFullError,
    StoreReadOnlyError,
    VersionConflictError,
)
from composer.errors import (
    ComposerError,
    CompositionError,
    CompositionSchemaError,
    EmptyCompositionError,
    EngineFault,
    FormulaSyntaxError,
    GangTooLargeError,
    NoRequestPromptError,
    PromptTooLongError,
    TooManyMembersError,
    UnknownModelError,
    UnsupportedError,
    WeightError,
)
from composer.request import composition_examples
from server.errors import (
    AdapterForbiddenError,
    AdapterUnavailableError,
    BodyTooLargeError,
    InvalidJsonError,
    RateLimitError,
    RequestBoundError,
    RequestError,
    RoleError,
    RouteNotFoundError,
    UnauthorizedError,
    UnavailableError,
)
from server.publishing.bodies import (
    LoadAdapter,
    Publication,
    Rollback,
    UnloadAdapter,
    UploadFields,
)

Errors = tuple[type[ComposerError], ...]

ALWAYS: Errors = (
    *(RequestError, UnauthorizedError, RoleError, RouteNotFoundError, RateLimitError),
    *(UnavailableError, EngineFault),
)
"""Of every route: who asks, how often, the headers, the end of the server."""

COMPOSING: Errors = (
    *(CompositionError, FormulaSyntaxError, CompositionSchemaError, UnknownModelError),
    *(WeightError, TooManyMembersError, EmptyCompositionError, NoRequestPromptError),
    *(PromptTooLongError, GangTooLargeError, UnsupportedError),
    *(AdapterForbiddenError, AdapterUnavailableError),
)
"""Of every route that reads a composition."""

BODY: Errors = (InvalidJsonError, BodyTooLargeError, RequestBoundError)
STORE: Errors = (AdapterStoreError, StoreFullError, StoreReadOnlyError)
_CHANGE: Errors = (*BODY, *STORE, VersionConflictError, AdapterNotFoundError)
_PUBLISH: Errors = (
    *_CHANGE,
    *(AdapterError, PolicyError, ProfileError, SourceError, MergeError, NameTakenError),
    *(SourceUnavailableError, AdapterUnavailableError),
)
_COMPOSITION: Errors = (
    *_CHANGE,
    *(CompositionNotFoundError, CompositionOwnerError, CompositionLimitError, NameTakenError),
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one route.

    body: the model of its JSON body. examples: JSON bodies by name; the server answers all of them
    where the adapters of their names exist. files: whether it takes an adapter's files as well.
    versioned: whether it takes `If-Match`. created: whether 201 is among its answers.
    """

    errors: Errors = ()
    body: type[BaseModel] | None = None
    examples: Mapping[str, Any] = field(default_factory=dict)
    files: bool = False
    versioned: bool = False
    created: bool = False


_ADAPTERS, _COMPOSITIONS = "/v1/adapters", "/v1/compositions"
_MERGE = {
    "method": "ties",
    "adapters": [{"adapter": "chat"}, {"adapter": "greeting", "weight": 0.5}],
    "rank": 16,
    "density": 0.5,
}

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("get", "/live"): Operation(),
    ("get", "/ready"): Operation(),
    ("get", "/metrics"): Operation(),
    ("get", "/v1/models"): Operation(),
    ("get", "/v1/models/{model}"): Operation(COMPOSING),
    ("get", _COMPOSITIONS): Operation(),
    ("get", _COMPOSITIONS + "/{name}"): Operation((CompositionNotFoundError,)),
    ("get", _COMPOSITIONS + "/{name}/history"): Operation((CompositionNotFoundError,)),
    ("put", _COMPOSITIONS + "/{name}"): Operation(
        (*_COMPOSITION, *COMPOSING),
        examples={f"composition {n}": value for n, value in enumerate(composition_examples(), 1)},
        versioned=True,
        created=True,
    ),
    ("post", _COMPOSITIONS + "/{name}/rollback"): Operation(
        (*_COMPOSITION, *COMPOSING), Rollback, {"to a version": {"to": 1}}, versioned=True
    ),
    ("delete", _COMPOSITIONS + "/{name}"): Operation(_COMPOSITION, versioned=True),
    ("get", _ADAPTERS): Operation(STORE),
    ("get", _ADAPTERS + "/{alias}"): Operation((*STORE, AdapterNotFoundError)),
    ("get", _ADAPTERS + "/{alias}/history"): Operation((*STORE, AdapterNotFoundError)),
    ("put", _ADAPTERS + "/{alias}"): Operation(
        _PUBLISH,
        Publication,
        {
            "a source": {
                "source": "polite",
                "policy": {"negative": False},
                "examples": ["Could you help me, please?"],
                "description": "polite answers",
            },
            "a merge": {"merge": _MERGE},
            "a fine-tune": {"extract": {"tuned": "tuned", "energy": 0.95, "max_rank": 16}},
            "a later base": {"patch": {"source": "polite", "scale": 0.5}},
        },
        files=True,
        versioned=True,
        created=True,
    ),
    ("put", _ADAPTERS + "/{alias}/policy"): Operation(
        (*_CHANGE, PolicyError),
        Policy,
        {"nobody subtracts it": {"negative": False, "keys": None}},
        versioned=True,
    ),
    ("put", _ADAPTERS + "/{alias}/profile"): Operation(
        (*_CHANGE, ProfileError),
        Profile,
        {"for the router": {"examples": ["Add 2 and 3."], "description": "sums"}},
        versioned=True,
    ),
    ("post", _ADAPTERS + "/{alias}/rollback"): Operation(
        _PUBLISH, Rollback, {"to a version": {"to": 1}}, versioned=True
    ),
    ("delete", _ADAPTERS + "/{alias}"): Operation(_CHANGE, versioned=True),
    ("post", "/v1/load_lora_adapter"): Operation(
        _PUBLISH,
        LoadAdapter,
        {"replace": {"lora_name": "greeting", "lora_path": "polite", "load_inplace": True}},
    ),
    ("post", "/v1/unload_lora_adapter"): Operation(
        _CHANGE, UnloadAdapter, {"remove": {"lora_name": "greeting"}}
    ),
}

PARAMETERS: Mapping[str, str] = {
    "alias": "greeting",
    "name": "friendly",
    "model": "base + 0.5*polite",
}
"""Examples of the parameters of paths."""

_BINARY = {"type": "string", "format": "binary"}


def form_schema(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a form with an adapter's files; `fields` accompany them as JSON."""
    return {
        "type": "object",
        "properties": {"archive": _BINARY, CONFIG: _BINARY, WEIGHTS: _BINARY, **fields},
        "description": f"Either `archive`, or {CONFIG} and {WEIGHTS}.",
    }


FORM = UploadFields
