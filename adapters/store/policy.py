"""What an operator allows to be done with an adapter, and by whom."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

from adapters.errors import PolicyError
from composer.errors import quoted

_PREFIX = "sha256:"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS = ("compositions", "negative", "keys")


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one alias. They stay when the alias gets new content."""

    compositions: bool = True
    """It may be a member of a composition; otherwise it answers alone."""

    negative: bool = True
    """It may have a negative weight. Subtracting a well-behaved adapter undoes its training."""

    keys: tuple[str, ...] | None = None
    """sha256, in hex, of the API keys that may use it, sorted. None: everybody; empty: nobody."""

    def allows_key(self, api_key: str | None) -> bool:
        """Whether a request with this API key, or with none, may use the adapter."""
        if self.keys is None:
            return True
        if api_key is None:
            return False
        digest = _hash(api_key)
        # Every entry is compared in full, so the time tells nothing about the entries.
        return sum(hmac.compare_digest(digest, key) for key in self.keys) > 0

    def to_json(self) -> dict[str, object]:
        """The object that `from_json` reads; API keys leave as hashes only."""
        keys = None if self.keys is None else [_PREFIX + key for key in self.keys]
        return {"compositions": self.compositions, "negative": self.negative, "keys": keys}

    @classmethod
    def from_json(cls, value: object) -> Policy:
        """The policy that `value` describes; a missing field allows.

        An entry of `keys` is a raw API key, which is hashed, or "sha256:" and the hash in hex.

        Raises:
            PolicyError: an unknown field, or a value of the wrong type.
        """
        if not isinstance(value, Mapping):
            raise PolicyError(
                f"a policy is a JSON object, not {type(value).__name__}. "
                f"Its fields are {', '.join(_FIELDS)}.",
                param="policy",
            )
        for name in value:
            if name not in _FIELDS:
                raise PolicyError(
                    f"a policy has no field {quoted(str(name))}. "
                    f"Its fields are {', '.join(_FIELDS)}.",
                    param="policy",
                )
        return cls(_flag(value, "compositions"), _flag(value, "negative"), _keys(value.get("keys")))


def _flag(value: Mapping[object, object], name: str) -> bool:
    flag = value.get(name, True)
    if not isinstance(flag, bool):
        raise PolicyError(
            f"{name} of a policy is {quoted(repr(flag))}. Give true or false.",
            param=f"policy.{name}",
        )
    return flag


def _keys(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise PolicyError(
            f"keys of a policy is of the type {type(value).__name__}. Give a list of API keys or "
            "of their hashes (sha256:<64 hex digits>), or null for everybody.",
            param="policy.keys",
        )
    return tuple(sorted({_key(entry, place) for place, entry in enumerate(value)}))


def _key(entry: object, place: int) -> str:
    # The message gives the place, not the value: messages are logged, and API keys are secret.
    param = f"policy.keys[{place}]"
    if not isinstance(entry, str) or not entry:
        raise PolicyError(
            f"{param} is no text. Give an API key or its hash (sha256:<64 hex digits>).",
            param=param,
        )
    if not entry.startswith(_PREFIX):
        return _hash(entry)
    digest = entry.removeprefix(_PREFIX).lower()
    if not _DIGEST.fullmatch(digest):
        raise PolicyError(
            f"{param} begins with {_PREFIX} but has no 64 hex digits after it. "
            "Give the sha256 of the key in hex, or the key itself.",
            param=param,
        )
    return digest


def _hash(api_key: str) -> str:
    return hashlib.sha256(api_key.encode(errors="surrogatepass")).hexdigest()
