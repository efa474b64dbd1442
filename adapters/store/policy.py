"""What an operator allows to be done with an adapter, and by whom."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from adapters.errors import PolicyError
from composer.fields import Fields, Flag
from composer.validation import validate

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def hashed(api_key: str) -> str:
    """Return `sha256:` and the hash of an API key in hex."""
    digest = hashlib.sha256(api_key.encode(errors="surrogatepass")).hexdigest()
    return f"sha256:{digest}"


# API keys are secret and messages are logged, so no message about a policy shows a value.


def _check_list(value: object) -> object:
    if value is None or isinstance(value, list | tuple):
        return value
    raise ValueError(
        "it is not a list; give a list of API keys or of their hashes (sha256:<64 hex digits>), or "
        "null for everybody"
    )


def _hash_key(entry: object) -> str:
    if not isinstance(entry, str) or not entry:
        raise ValueError("it is not a text; give an API key or its hash (sha256:<64 hex digits>)")
    if not entry.startswith("sha256:"):
        return hashed(entry)
    if not _DIGEST.fullmatch(entry.lower()):
        raise ValueError(
            "it begins with sha256: without 64 hex digits after it; give the sha256 of the key in "
            "hex, or the key itself"
        )
    return entry.lower()


def _sorted(keys: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if keys is None else tuple(sorted(set(keys)))


class Policy(Fields):
    """The rules of one alias. They stay when the alias gets new content."""

    compositions: Flag = True
    """Whether the adapter may be a member of a composition; otherwise it answers alone."""

    negative: Flag = True
    """Whether its weight may be negative. Subtracting a well-behaved adapter undoes its
    training."""

    keys: Annotated[
        tuple[Annotated[str, BeforeValidator(_hash_key)], ...] | None,
        BeforeValidator(_check_list),
        AfterValidator(_sorted),
    ] = None
    """The API keys that may use the adapter, raw or as `sha256:` and the hash in hex; only hashes
    are kept. Null allows everybody, an empty list nobody."""

    def allows_key(self, api_key: str | None) -> bool:
        """Return whether a request with this API key, or with none, may use the adapter."""
        if self.keys is None:
            return True
        if api_key is None:
            return False
        digest = hashed(api_key)
        # Every entry is compared in full, so the time tells nothing about the entries.
        return sum(hmac.compare_digest(digest, key) for key in self.keys) > 0

    @classmethod
    def from_json(cls, value: object) -> Policy:
        """Read a JSON object; a missing field allows. Raises `PolicyError`."""
        return validate(cls, value, "policy", PolicyError, shows_values=False)
