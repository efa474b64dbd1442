"""API keys: who sends a request, what they may do, and how much of it.

A file of keys is TOML, one table for each key. It holds hashes, never a key itself:

    [alice]
    sha256 = "9f86d081884c7d65…"     # or a list of two, while a key is being replaced
    roles = ["use", "compose"]       # the default is ["use"]
    models = ["base", "polite"]      # what it may ask for; without the field: everything
    requests_per_minute = 600
    rows = 32                        # of the engine's batch, at once

The file is read again when it has changed, so a key can be added or revoked under traffic.
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
"""How often the file of keys is looked at, at most."""


class Role(StrEnum):
    """What a key may do. `ADMIN` includes the others."""

    USE = "use"
    """Ask models and list them."""

    COMPOSE = "compose"
    """Store compositions, and change its own."""

    PUBLISH = "publish"
    """Publish, replace and remove adapters."""

    ADMIN = "admin"
    """Everything: policies of adapters, and the compositions of others."""


@dataclass(frozen=True, slots=True)
class Key:
    """Who sends a request.

    `models` are the values of `model` that it may ask for, which are also the members that its
    compositions may have; None is everything. `secret` is what the request presented, for the
    policies of adapters.
    """

    name: str
    roles: frozenset[Role]
    models: frozenset[str] | None = None
    requests_per_minute: int | None = None
    rows: int | None = None
    secret: str | None = field(default=None, repr=False, compare=False)

    def may(self, role: Role) -> bool:
        """Whether it has the role."""
        return role in self.roles or Role.ADMIN in self.roles

    def may_use(self, model: str) -> bool:
        """Whether it may ask this model; the base model is called `base` here."""
        return self.models is None or model in self.models


ANONYMOUS = Key("anonymous", frozenset({Role.USE, Role.COMPOSE}))
"""Who sends requests to a server without keys."""

API_KEY = Key("api-key", frozenset({Role.USE, Role.COMPOSE}))
"""Who presents a key of `--api-key`."""

ADMIN = Key("admin", frozenset(Role))
"""Who presents the administrators' key."""

_RESERVED = frozenset({ANONYMOUS.name, API_KEY.name, ADMIN.name})


class KeyFields(Fields):
    """One table of a file of keys."""

    sha256: str | Annotated[list[str], Field(min_length=1)]
    """Of the key, in hex; several are valid at once."""

    roles: Annotated[list[Role], Field(min_length=1)] = Field(default_factory=lambda: [Role.USE])
    """What it may do."""

    models: list[str] | None = None
    """What it may ask for; left out, everything."""

    requests_per_minute: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Requests that it may send in any minute."""

    rows: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Rows of the engine's batch that its requests may take at once."""


class KeyFile:
    """A file of keys, which may change while the server runs."""

    def __init__(self, path: Path) -> None:
        """Read it. Raises `ValueError` where that fails."""
        self._path = path
        self._lock = threading.Lock()
        self._seen = self._signature()
        self._keys = read_keys(path)
        self._checked = time.monotonic()

    def keys(self) -> Mapping[str, Key]:
        """The keys by the sha256 of their secrets, as the file is now.

        A file that cannot be read leaves the keys as they were; the log says why.
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
    """The keys of a file, by the sha256 of their secrets.

    Raises:
        ValueError: the file cannot be read; names the key and the field.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"--keys {path}: {error}") from error
    found: dict[str, Key] = {}
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
            if digest in found:
                raise ValueError(
                    f"--keys {path}: {found[digest].name} and {name} have the same sha256. "
                    "Give each its own key."
                )
            found[digest] = key
    return found


class KeyRing:
    """All keys of a server."""

    def __init__(
        self,
        api_keys: Iterable[str] = (),
        admin_key: str | None = None,
        file: KeyFile | None = None,
    ) -> None:
        """`api_keys` and `admin_key` are secrets; `file` holds hashes."""
        self._fixed = {_digest(secret): API_KEY for secret in api_keys}
        self.required = bool(self._fixed) or file is not None
        """Whether a request without a key is refused."""

        if admin_key is not None:
            self._fixed[_digest(admin_key)] = ADMIN
        self._file = file

    @property
    def publishes(self) -> bool:
        """Whether any key may publish adapters, now or after the file of keys has changed."""
        return self._file is not None or ADMIN in self._fixed.values()

    def anonymous(self, scope: Scope) -> Key:
        """Who sends a request that needs no key, and is not asked for one."""
        secrets = presented(scope)
        return replace(ANONYMOUS, secret=secrets[0] if secrets else None)

    def identify(self, scope: Scope) -> Key:
        """Who sends a request, by `Authorization: Bearer KEY` or `x-api-key: KEY`.

        Raises:
            UnauthorizedError: a key is required, and none that is known was sent.
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
    """The secrets that a request presents, at most two."""
    headers = Headers(scope=scope)
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    found = [bearer.strip()] if scheme.lower() == "bearer" else []
    found.append(headers.get("x-api-key", "").strip())
    return list(dict.fromkeys(filter(None, found)))


def key_of(scope: Scope) -> Key:
    """Who sent a request that has passed `server.auth.access_control`."""
    key: Key = scope["state"][_STATE]
    return key


def sender_of(scope: Scope) -> str:
    """The name of the key that a request was sent with; "-" where that was not found out."""
    key: Key | None = scope["state"].get(_STATE)
    return "-" if key is None else key.name


def set_key(scope: Scope, key: Key) -> None:
    """Say who sent a request."""
    scope.setdefault("state", {})[_STATE] = key


def secret_of(scope: Scope) -> str | None:
    """The secret that came with a request, for the policies of adapters."""
    return key_of(scope).secret


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
