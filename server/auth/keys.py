"""API keys: who sends a request, and what the key may do.

A file of keys is TOML, one table for each key. It holds hashes, never a key itself:

    [alice]
    sha256 = "9f86d081884c7d65…"     # or a list of two, while a key is being replaced
    roles = ["use", "compose"]       # the default is ["use"]
    models = ["base", "polite"]      # models that it may use; the default is all
    requests_per_minute = 600
    rows = 32                        # of the engine's batch, at once

The file is read again when it changes, so a key can be added or revoked under traffic.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field
from starlette.datastructures import Headers
from starlette.types import Scope

from composer.errors import ComposerError, quoted
from composer.fields import Fields
from composer.validation import validate
from server.errors import UnauthorizedError

logger = logging.getLogger(__name__)

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
_STATE = "composer_key"
_RECHECK_S = 1.0
"""Shortest interval between two looks at the file of keys."""


class Role(StrEnum):
    """What a key may do. `ADMIN` includes the others."""

    USE = "use"
    """Send requests to models, and list models."""

    COMPOSE = "compose"
    """Store compositions, and change those that the key has stored."""

    PUBLISH = "publish"
    """Publish, replace and remove adapters."""

    ADMIN = "admin"
    """Everything, including policies of adapters and compositions of other keys."""


@dataclass(frozen=True, slots=True)
class Key:
    """Who sends a request.

    models: values of `model` that the key may request, and members that its compositions may have;
        None stands for all.
    requests_per_minute, rows: limits; None stands for unlimited.
    secret: what the request presented, for the policies of adapters.
    """

    name: str
    roles: frozenset[Role]
    models: frozenset[str] | None = None
    requests_per_minute: int | None = None
    rows: int | None = None
    secret: str | None = field(default=None, repr=False, compare=False)

    def may(self, role: Role) -> bool:
        """Return whether the key has a role."""
        return role in self.roles or Role.ADMIN in self.roles

    def may_use(self, model: str) -> bool:
        """Return whether the key may use a model; `base` is the base model."""
        return self.models is None or model in self.models


ANONYMOUS = Key("anonymous", frozenset({Role.USE, Role.COMPOSE}))
"""The sender of requests to a server without keys."""

API_KEY = Key("api-key", frozenset({Role.USE, Role.COMPOSE}))
"""The sender of requests with a key of `--api-key`."""

ADMIN = Key("admin", frozenset(Role))
"""The sender of requests with the administrators' key."""

_RESERVED = frozenset({ANONYMOUS.name, API_KEY.name, ADMIN.name})


class KeyFields(Fields):
    """One table of a file of keys."""

    sha256: str | Annotated[list[str], Field(min_length=1)]
    """SHA-256 of the key in hex, or several, all of which are valid."""

    roles: Annotated[list[Role], Field(min_length=1)] = Field(default_factory=lambda: [Role.USE])
    """What the key may do."""

    models: list[str] | None = None
    """Models that the key may use; all if the field is left out."""

    requests_per_minute: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Requests per minute."""

    rows: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Rows of the engine's batch that the requests of the key may take at once."""


class KeyFile:
    """A file of keys that may change while the server runs."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raise `ValueError` if that fails."""
        self._path = path
        self._lock = threading.Lock()
        self._seen = self._signature()
        self._keys = read_keys(path)
        self._checked = time.monotonic()

    def keys(self) -> Mapping[str, Key]:
        """Return the present keys of the file, by the SHA-256 of their secrets.

        If the file cannot be read, log the reason and keep the previous keys.
        """
        with self._lock:
            now = time.monotonic()
            if now - self._checked >= _RECHECK_S:
                self._checked = now
                try:
                    if (seen := self._signature()) != self._seen:
                        self._seen = seen
                        self._keys = read_keys(self._path)
                        logger.info("Read %d keys from %s", len(self._keys), self._path)
                except ValueError as error:
                    logger.error("The keys stay as they were: %s", error)
            return self._keys

    def _signature(self) -> tuple[int, ...]:
        try:
            stat = self._path.stat()
        except OSError as error:
            raise ValueError(f"--keys {self._path}: {error.strerror}") from error
        return stat.st_ino, stat.st_size, stat.st_mtime_ns


def read_keys(path: Path) -> dict[str, Key]:
    """Return the keys of a file, by the SHA-256 of their secrets.

    Raises:
        ValueError: the file is invalid; the message names the key and the field.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"--keys {path}: {error}") from error
    keys: dict[str, Key] = {}
    for name, table in tables.items():
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise ValueError(
                f"--keys {path}: {quoted(name)} cannot name a key. Use letters, digits and "
                f"_ . @ -, and not {', '.join(sorted(_RESERVED))}."
            )
        try:
            fields = validate(KeyFields, table, name)
        except ComposerError as error:
            raise ValueError(f"--keys {path}: {error.message}") from error
        if fields.models is not None and {Role.PUBLISH, Role.ADMIN} & set(fields.roles):
            raise ValueError(
                f"--keys {path}: {name} has 'models' and the role 'publish' or 'admin', which see "
                "and change all adapters. Give it one of both, or two keys."
            )
        key = Key(
            name,
            frozenset(fields.roles),
            None if fields.models is None else frozenset(fields.models),
            fields.requests_per_minute,
            fields.rows,
        )
        for digest in [fields.sha256] if isinstance(fields.sha256, str) else fields.sha256:
            digest = digest.removeprefix("sha256:").lower()
            if not _DIGEST.fullmatch(digest):
                raise ValueError(
                    f"--keys {path}: {name}.sha256 is not 64 hex digits. Give what "
                    "`printf %s KEY | sha256sum` prints, not the key."
                )
            if digest in keys:
                raise ValueError(
                    f"--keys {path}: {keys[digest].name} and {name} have the same sha256. "
                    "Give each its own key."
                )
            keys[digest] = key
    return keys


class KeyRing:
    """All keys of a server."""

    def __init__(
        self,
        api_keys: Iterable[str] = (),
        admin_key: str | None = None,
        file: KeyFile | None = None,
    ) -> None:
        """`api_keys` and `admin_key` are secrets; `file` has hashes."""
        self._fixed = {_digest(secret): API_KEY for secret in api_keys}
        self.required = bool(self._fixed) or file is not None
        """Whether requests without a key are refused."""

        if admin_key is not None:
            self._fixed[_digest(admin_key)] = ADMIN
        self._file = file

    @property
    def publishes(self) -> bool:
        """Whether a key may publish adapters, now or after a change of the file."""
        return self._file is not None or ADMIN in self._fixed.values()

    def anonymous(self, scope: Scope) -> Key:
        """Return the sender of a request that requires no key."""
        secrets = presented(scope)
        return replace(ANONYMOUS, secret=secrets[0] if secrets else None)

    def identify(self, scope: Scope) -> Key:
        """Return the sender of a request, by `Authorization: Bearer KEY` or `x-api-key: KEY`.

        Raises:
            UnauthorizedError: a key is required, and the request has no known key.
        """
        secrets = presented(scope)
        known = self._known()
        for secret in secrets:
            if (key := known.get(_digest(secret))) is not None:
                return replace(key, secret=secret)
        if not self.required:
            return self.anonymous(scope)
        problem = "the API key of this request is not known" if secrets else "no API key was sent"
        raise UnauthorizedError(
            f"{problem}. Send 'Authorization: Bearer KEY' or 'x-api-key: KEY', with a key that "
            "the operator of this server gave you."
        )

    def _known(self) -> Mapping[str, Key]:
        return self._fixed if self._file is None else {**self._file.keys(), **self._fixed}


def presented(scope: Scope) -> Sequence[str]:
    """Return the secrets in the headers of a request, at most two."""
    headers = Headers(scope=scope)
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    secrets = [bearer.strip()] if scheme.lower() == "bearer" else []
    secrets.append(headers.get("x-api-key", "").strip())
    return list(dict.fromkeys(filter(None, secrets)))


def key_of(scope: Scope) -> Key:
    """Return the sender of a request that has passed `server.auth.access_control`."""
    key: Key = scope["state"][_STATE]
    return key


def sender_of(scope: Scope) -> str:
    """Return the name of the key of a request; "-" if the request was not identified."""
    key: Key | None = scope["state"].get(_STATE)
    return "-" if key is None else key.name


def set_key(scope: Scope, key: Key) -> None:
    """Attach the sender to a request."""
    scope.setdefault("state", {})[_STATE] = key


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
