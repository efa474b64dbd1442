"""Requests with files, which are read in pieces: a file may be larger than the memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from clients.call import Call, Form, RawFile

_PIECE_BYTES = 64 * 2**10
_BINARY = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class _BodyPieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A file as the body for both clients; httpx streams forms for both, but not plain files."""

    file: BinaryIO

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.file.read(_PIECE_BYTES):
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


@contextmanager
def prepared(http: httpx.Client | httpx.AsyncClient, call: Call[Any]) -> Iterator[httpx.Request]:
    """Yield the request of `call`; its files are open until the block ends.

    Raises:
        OSError: a file cannot be opened.
    """
    with ExitStack() as files:

        def opened(path: Path) -> BinaryIO:
            return files.enter_context(path.open("rb"))

        method, path, headers = call.method, call.path, dict(call.headers)
        match call.upload:
            case None:
                yield http.build_request(method, path, json=call.body, headers=headers)
            case Form(fields, paths):
                parts = {p.name: (p.name, opened(p), _BINARY) for p in paths}
                yield http.build_request(
                    method, path, data=dict(fields), files=parts, headers=headers
                )
            case RawFile(file, media_type):
                headers["Content-Type"] = media_type
                content = opened(file)
                request = http.build_request(method, path, content=content, headers=headers)
                request.stream = _BodyPieces(content)
                yield request
