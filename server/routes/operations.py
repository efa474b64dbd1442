"""What the OpenAPI document says of our own routes beside what FastAPI derives: bodies, examples,
and the errors that each can give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from adapters import Policy, Profile
from adapters import errors as adapter
from composer.errors import ComposerError, CompositionError, EngineFault
from composer.request import composition_examples
from server import errors as http
from server.compose.scoring.score_bodies import FitBody, ScoreBody
from server.compose.scoring.sweep_body import SweepBody
from server.publishing.bodies import LoadAdapter, Publication, Rollback, UnloadAdapter

Errors = tuple[type[ComposerError], ...]


def _family(base: type[ComposerError]) -> Errors:
    return (base, *base.__subclasses__())


ALWAYS: Errors = (
    *(http.RequestError, http.UnauthorizedError, http.RoleError, http.RouteNotFoundError),
    *(http.RateLimitError, http.UnavailableError, EngineFault),
)
"""Errors of every route: of keys, quotas and headers, and while the server ends."""

COMPOSING: Errors = (
    *_family(CompositionError),
    *(http.AdapterForbiddenError, http.AdapterUnavailableError),
)
"""Errors of every route that reads a composition."""

BODY: Errors = (http.InvalidJsonError, http.BodyTooLargeError, http.RequestBoundError)
_STORE = _family(adapter.AdapterStoreError)
_READ: Errors = (*_STORE, adapter.AdapterNotFoundError)
_CHANGE: Errors = (*BODY, *_READ, adapter.VersionConflictError)
_PUBLISH: Errors = (
    *_CHANGE,
    *(adapter.AdapterError, adapter.PolicyError, adapter.ProfileError, adapter.MergeError),
    *(adapter.SourceError, adapter.SourceUnavailableError, adapter.NameTakenError),
    http.AdapterUnavailableError,
)
_FIND: Errors = (adapter.CompositionNotFoundError,)
_STORE_COMPOSITION: Errors = (
    *(*BODY, *_STORE, *_FIND, *COMPOSING, adapter.VersionConflictError, adapter.NameTakenError),
    *(adapter.CompositionOwnerError, adapter.CompositionLimitError),
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one route.

    body: the model of its JSON body. examples: JSON bodies by name, which a server answers if it
    has the adapters that they name. files: whether it also takes an adapter's files. versioned:
    whether it takes `If-Match`. created: whether it may answer 201.
    """

    errors: Errors = ()
    body: type[BaseModel] | None = None
    examples: Mapping[str, Any] = field(default_factory=dict)
    files: bool = False
    versioned: bool = False
    created: bool = False


_ALIAS, _NAME = "/v1/adapters/{alias}", "/v1/compositions/{name}"
_MERGED = [{"adapter": "chat"}, {"adapter": "greeting", "weight": 0.5}]
_PUBLICATIONS = {
    "a source": {
        "source": "polite",
        "policy": {"negative": False},
        "examples": ["Could you help me, please?"],
        "description": "polite answers",
    },
    "a merge": {"merge": {"method": "ties", "adapters": _MERGED, "rank": 16, "density": 0.5}},
    "a fine-tune": {"extract": {"tuned": "tuned", "energy": 0.95, "max_rank": 16}},
    "a later base": {"patch": {"source": "polite", "scale": 0.5}},
}
_PROFILE = {"examples": ["Add 2 and 3."], "description": "sums"}
_LOADED = {"lora_name": "greeting", "lora_path": "polite", "load_inplace": True}
_BACK = {"to a version": {"to": 1}}
_TEXT = {"prompt": "Ann lives in", "completion": " Mogtu."}
_ANSWER = {
    "messages": [{"role": "user", "content": "Where does Ann live?"}],
    "completion": "Ann lives in Mogtu.",
}
_SCORES = {
    "one composition": {"model": "base + 0.5*polite", "items": [_TEXT, _ANSWER], "members": True},
    "several": {"compositions": ["base", "base + 0.5*polite", "polite"], "items": [_TEXT]},
    "how far is one from another": {
        "compositions": ["base + 0.5*polite", "polite"],
        "items": [_TEXT],
        "divergences": True,
    },
}
_FITS = {
    "a formula": {"formula": "base + a*polite", "items": [_TEXT, _ANSWER]},
    "a mixture": {"experts": ["base", "polite"], "items": [_TEXT, _ANSWER]},
    "under a name": {"formula": "base + a*polite", "items": [_TEXT, _ANSWER], "name": "fitted"},
}
_GRID = {"formula": "base + a*polite", "values": {"a": [0, 0.5, 1]}, "max_tokens": 8}
_SWEEPS = {
    "a text": {**_GRID, "prompt": _TEXT["prompt"], "reference": _TEXT["completion"]},
    "a question": {
        **{"formula": "base + a*polite + b*chat", "points": [{"a": 0.5, "b": 1}]},
        **{"messages": _ANSWER["messages"], "max_tokens": 8},
    },
}
_STORED = {f"composition {n}": value for n, value in enumerate(composition_examples(), 1)}

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("get", "/live"): Operation(),
    ("get", "/ready"): Operation(),
    ("get", "/metrics"): Operation(),
    ("get", "/v1/models"): Operation(),
    ("get", "/v1/models/{model}"): Operation(COMPOSING),
    ("get", "/v1/compositions"): Operation(),
    ("get", _NAME): Operation(_FIND),
    ("get", _NAME + "/history"): Operation(_FIND),
    ("put", _NAME): Operation(_STORE_COMPOSITION, None, _STORED, versioned=True, created=True),
    ("post", _NAME + "/rollback"): Operation(_STORE_COMPOSITION, Rollback, _BACK, versioned=True),
    ("delete", _NAME): Operation(_STORE_COMPOSITION, versioned=True),
    ("post", "/v1/compose/score"): Operation((*BODY, *COMPOSING), ScoreBody, _SCORES),
    ("post", "/v1/compose/sweep"): Operation((*BODY, *COMPOSING), SweepBody, _SWEEPS),
    ("post", "/v1/compose/fit"): Operation(_STORE_COMPOSITION, FitBody, _FITS, versioned=True),
    ("get", "/v1/adapters"): Operation(_STORE),
    ("get", _ALIAS): Operation(_READ),
    ("get", _ALIAS + "/history"): Operation(_READ),
    ("put", _ALIAS): Operation(
        _PUBLISH, Publication, _PUBLICATIONS, files=True, versioned=True, created=True
    ),
    ("put", _ALIAS + "/policy"): Operation(
        (*_CHANGE, adapter.PolicyError),
        Policy,
        {"no subtraction": {"negative": False}},
        versioned=True,
    ),
    ("put", _ALIAS + "/profile"): Operation(
        (*_CHANGE, adapter.ProfileError), Profile, {"for routers": _PROFILE}, versioned=True
    ),
    ("post", _ALIAS + "/rollback"): Operation(_PUBLISH, Rollback, _BACK, versioned=True),
    ("delete", _ALIAS): Operation(_CHANGE, versioned=True),
    ("post", "/v1/load_lora_adapter"): Operation(_PUBLISH, LoadAdapter, {"replace": _LOADED}),
    ("post", "/v1/unload_lora_adapter"): Operation(
        _CHANGE, UnloadAdapter, {"remove": {"lora_name": "greeting"}}
    ),
}

PARAMETERS = {"alias": "greeting", "name": "friendly", "model": "base + 0.5*polite"}
"""Examples of the parameters of paths."""
