"""URLs of adapters and the prefixes that allow them, in one strict form.

Two programs that read a URL differently are how an allow-list is circumvented. So a URL has to be
in a form that every program reads alike, and what is fetched is written anew from what was checked.

Refused: user names and passwords, queries and fragments, `.`, `..` and empty path components, also
in percent-encoding, encoded slashes, backslashes and percent signs, `;`, spaces, control and
non-ASCII characters, the chaining of fsspec (`::`), and schemes that read local files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from adapters.errors import SourceError
from composer.errors import quoted

HUB = "hf"
HTTP = ("http", "https")

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<host>[^/]*)(?P<path>/.*)?", re.DOTALL)
_HOST = re.compile(
    r"(?P<host>[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)
_CHARACTERS = re.compile(r"[A-Za-z0-9._~:/@!$&'()*+,=%\[\]-]*")
_ENCODED = re.compile(r"%(?:2[eEfF]|5[cC]|25|[01][0-9a-fA-F]|7[fF]|(?![0-9a-fA-F]{2}))")
_REVISION = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_PORTS = {"http": 80, "https": 443}
# Of fsspec: local files, and file systems that wrap others.
_NOT_REMOTE = frozenset({
    "arrow_hdfs", "async_wrapper", "asynclocal", "asyncwrapper", "blockcache", "cached", "dask",
    "data", "dir", "file", "filecache", "generic", "git", "libarchive", "local", "reference",
    "simplecache", "tar", "zip",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Location:
    """A checked URL. `path` are its components; `revision` is that of a hub id, `@…`."""

    scheme: str
    host: str
    port: int | None
    path: tuple[str, ...]
    revision: str | None = None

    @property
    def url(self) -> str:
        """The URL anew, without a slash at its end, and without the revision."""
        port = "" if self.port in (None, _PORTS.get(self.scheme)) else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}" + "".join(f"/{part}" for part in self.path)

    def allows(self, other: Location) -> bool:
        """Whether `other` is this location or below it. The path is compared by component."""
        if self.scheme == HUB:
            # The hub takes names of users and organizations in either case.
            same_host = self.host.lower() in ("", other.host.lower())
        else:
            same_host = (self.host, self.port) == (other.host, other.port)
        same_path = other.path[: len(self.path)] == self.path
        return self.scheme == other.scheme and same_host and same_path


def parse(url: str, *, prefix: bool = False, query: bool = False) -> Location:
    """Parse a URL. The scheme and the host of HTTP become lower case; the usual port is filled in.

    prefix: an entry of the allow-list, where `hf://` alone stands for the whole hub.
    query: a query may follow; it is cut off.

    Raises:
        SourceError: the URL does not have the form above; the message says why.
    """
    checked = url.partition("?")[0] if query else url
    match = _URL.fullmatch(checked)
    if match is None:
        _refuse(url, "it has no scheme and host")
    scheme, path = match["scheme"].lower(), match["path"] or ""
    if scheme in _NOT_REMOTE:
        _refuse(url, f"the scheme '{scheme}' is not remote; name local files by their path")
    for mark, what in (("?", "a query"), ("#", "a fragment")):
        if mark in checked:
            _refuse(url, f"it has {what}")
    if "::" in path:
        _refuse(url, "it chains sources")
    if not _CHARACTERS.fullmatch(checked) or _ENCODED.search(checked):
        _refuse(url, "it has characters, or encoded characters, that have no place in one")
    if "@" in match["host"]:
        _refuse(url, "it has a user name; give credentials by the environment")
    host = _HOST.fullmatch(match["host"])
    everything = prefix and scheme == HUB and not match["host"] and path in ("", "/")
    if host is None and not everything:
        _refuse(url, f"{quoted(match['host'])} is not a valid host")
    revision = None
    if scheme == HUB:
        path, at, revision = path.partition("@")
        if at and (prefix or not _REVISION.fullmatch(revision) or ".." in revision):
            _refuse(url, f"{quoted(revision)} is not a valid revision")
    parts = tuple(path.removeprefix("/").removesuffix("/").split("/")) if path.strip("/") else ()
    if any(part in ("", ".", "..") for part in parts) or path.startswith("//"):
        _refuse(url, "its path has '.', '..' or empty components")
    if scheme == HUB and (len(parts) > 1 or (not parts and not prefix)):
        _refuse(url, "it is not of the form hf://organization/name or hf://organization/name@tag")
    port = _PORTS.get(scheme)
    if host is not None and host["port"]:
        port = int(host["port"])
    name = host["host"] if host is not None else ""
    return Location(scheme, name.lower() if scheme in HTTP else name, port, parts, revision or None)


def _refuse(url: str, reason: str) -> NoReturn:
    raise SourceError(
        f"{quoted(url, 200)} cannot be used as the URL of an adapter: {reason}. "
        "Give a plain URL like 'https://host/folder', 's3://bucket/folder' or 'hf://org/name'."
    )
