"""The pages for browsers, from the files of `server/page/`: no build step, nothing from elsewhere.

A folder's `index.html` is a page, of the path of the folder: `page/status/index.html` is `/status`.
Every other file is below `/page/`. Pages name their files relative to themselves
(`page/status/status.js`), so that they work behind a proxy that adds a prefix.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.auth.access_control import PAGE_FILES, PAGES

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Suffix -> `Content-Type`. Files with another suffix are not served."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
    "Cache-Control": "no-cache",  # ask again, by ETag: a page and its files are of one version
}

_INDEX = "index.html"


@dataclass(frozen=True)
class PageFile:
    """A file as it is sent.

    etag: a weak one, by the content: both forms have it.
    """

    content: bytes
    media_type: str
    etag: str

    @cached_property
    def compressed(self) -> bytes:
        """The content for browsers that accept gzip."""
        return gzip.compress(self.content, mtime=0)


def page_files() -> dict[str, PageFile]:
    """Return path -> file of all that is served.

    Raises:
        ValueError: a page is missing in `server.auth.access_control.PAGES`, and would ask for a
            key.
    """
    served = dict(_walk(files("server") / "page", ""))
    pages = {path for path in served if not path.startswith(PAGE_FILES)}
    if not pages <= PAGES:
        raise ValueError(f"server.auth.access_control.PAGES lacks {sorted(pages - PAGES)}: add it.")
    return served


def _walk(folder: Traversable, below: str) -> Iterator[tuple[str, PageFile]]:
    """`below`: where the folder is in `server/page/`, with a slash at its end; empty at the top."""
    for entry in folder.iterdir():
        name = entry.name
        suffix = name[name.rfind(".") :]
        if entry.is_dir():
            yield from _walk(entry, f"{below}{name}/")
        elif suffix in MEDIA_TYPES:
            content = entry.read_bytes()
            etag = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'
            path = f"/{below.rstrip('/')}" if name == _INDEX else f"{PAGE_FILES}{below}{name}"
            yield path, PageFile(content, MEDIA_TYPES[suffix], etag)


def make_pages() -> APIRouter:
    """Return the routes, which are not in the OpenAPI document. The files are read once, now."""
    router = APIRouter()
    for path, file in page_files().items():
        router.add_route(path, partial(_send, file=file), ["GET"], include_in_schema=False)
    return router


async def _send(request: Request, *, file: PageFile) -> Response:
    headers = {**HEADERS, "ETag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(file.compressed, headers=headers, media_type=file.media_type)
    return Response(file.content, headers=headers, media_type=file.media_type)
