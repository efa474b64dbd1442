"""A call: what its request looks like and how its answer is read.

Nothing here touches the network; `clients.client` sends what these values describe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from clients import errors

R = TypeVar("R")
C = TypeVar("C")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Form:
    """A multipart form: text fields, and files under their names."""

    fields: Mapping[str, str]
    files: Sequence[Path]


@dataclass(frozen=True, slots=True)
class RawFile:
    """A file as the whole body."""

    path: Path
    media_type: str


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One request.

    path: relative to the base URL.
    body: a JSON value; None sends no body.
    upload: sent in place of a JSON body.
    """

    method: str
    path: str
    body: Mapping[str, object] | str | None
    parse: Callable[[bytes], R]
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    upload: Form | RawFile | None = field(default=None, kw_only=True)

    def read(self, status: int, body: bytes, url: str = "") -> R:
        """Return the answer that `url` gave.

        Raises:
            ApiError: the server answered with an error.
            InvalidResponse: the answer is not what the API documents.
        """
        if status >= 400:
            raise errors.from_response(status, body, f"{self.method} {url or self.path}")
        if status >= 300:
            raise errors.InvalidResponse(f"{self.path} answered with a redirection ({status})")
        return self.parse(body)


@dataclass(frozen=True, slots=True)
class GenerationCall(Call[R], Generic[R, C]):
    """A call whose answer can also come as a stream of chunks."""

    body: Mapping[str, object]
    parse_chunk: Callable[[bytes], C]
    """Read every chunk but the first."""

    parse_first: Callable[[bytes], C]
    """Read the first chunk, which reports how the answer is computed."""

    def stream_body(self) -> dict[str, object]:
        """Return the body that asks for a stream with the usage at its end."""
        return {"stream_options": {"include_usage": True}, **self.body, "stream": True}


def reader(model: type[M]) -> Callable[[bytes], M]:
    """Return a function that reads a body as a `model`, or raises InvalidResponse."""

    def read(body: bytes) -> M:
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the body"
            raise errors.InvalidResponse(
                f"the answer cannot be read as {model.__name__}: {place}: {first['msg']}. Check "
                "that the base URL is that of a composer server, and ends in /v1"
            ) from None

    return read


def path_of(*parts: str) -> str:
    """Return a path with quoted parts: names may contain slashes."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def condition(if_match: int | None, *, if_none_match: bool = False) -> dict[str, str]:
    """Return the header of a conditional change.

    Raises:
        ValueError: both conditions are given.
    """
    if if_none_match and if_match is not None:
        raise ValueError("if_match and if_none_match contradict each other; give one")
    if if_none_match:
        return {"If-None-Match": "*"}
    return {} if if_match is None else {"If-Match": f'"{if_match}"'}
