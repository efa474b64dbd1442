"""What a call is: how its request looks and how its answer is read.

Nothing here touches the network; clients/client.py sends what these values describe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from clients import errors

R = TypeVar("R")
C = TypeVar("C")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Form:
    """A multipart form: text fields, and files under their own names."""

    fields: Mapping[str, str]
    files: Sequence[Path]


@dataclass(frozen=True, slots=True)
class RawFile:
    """One file that is the whole body."""

    path: Path
    media_type: str


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One request. `path` is relative to the base URL, `body` a JSON value or None for no body.

    `upload` is what is sent in the place of a JSON body.
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
    """Of every chunk but the first."""

    parse_first: Callable[[bytes], C]
    """Of the first chunk, which tells how the answer is computed."""

    def stream_body(self) -> dict[str, object]:
        """The body that asks for a stream, with the usage at its end."""
        return {"stream_options": {"include_usage": True}, **self.body, "stream": True}


def reader(model: type[M]) -> Callable[[bytes], M]:
    """What makes a `model` of an answer's body, or raises InvalidResponse."""

    def read(body: bytes) -> M:
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the body"
            raise errors.InvalidResponse(
                f"the answer is no {model.__name__}: {place}: {first['msg']} (is the base URL "
                "that of this server, with /v1?)"
            ) from None

    return read
