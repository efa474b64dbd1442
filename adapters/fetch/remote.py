"""Fetch adapters from URLs with fsspec; no other module imports it.

HTTP: every request, redirects included, is checked against the allow-list before it is sent. It
fails after 10 s without a connection or 60 s without a byte. Proxies and passwords of the
environment are not used. fsspec's drivers read other schemes with their own configuration.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapters.disk import store_error, store_errors
from adapters.errors import SourceError, SourceUnavailableError
from adapters.fetch.archive import unpack_file
from adapters.fetch.size_limit import Allowance, CountedFile, copy, new_file
from adapters.fetch.urls import HTTP, Location
from adapters.files import CONFIG, PICKLES, WEIGHTS, missing
from composer.errors import ComposerError, quoted

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
"""Suffixes of URLs of archives; every other URL is a folder."""

_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 60
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_RETRY_LATER = (408, 425, 429)

Check = Callable[[str], None]
"""Raises SourceError for a URL that must not be requested."""


def fetch_remote(location: Location, destination: Path, max_bytes: int, check: Check) -> None:
    """Write the adapter at `location`, a folder or an archive, into `destination`.

    Raises:
        SourceError: the location does not exist, is not an adapter, is too large, or redirects to a
            URL that `check` refuses; or the driver for its scheme is not installed.
        SourceUnavailableError: the network or the server failed.
        AdapterStoreError: the disk is full or fails.
    """
    url = location.url
    with remote_errors(url), _reader(location, check) as reader:
        if location.path and location.path[-1].lower().endswith(ARCHIVES):
            with store_errors(f"write {quoted(url)}"):
                archive = tempfile.TemporaryFile(dir=destination)  # noqa: SIM115 - closed below
            with archive:
                reader.read(url, CountedFile(archive.fileno(), Allowance(url, max_bytes)))
                archive.seek(0)
                unpack_file(archive, url, destination, max_bytes)
            return
        allowance = Allowance(url, max_bytes)
        for name in (CONFIG, WEIGHTS):
            with new_file(destination, name, allowance) as file:
                try:
                    reader.read(f"{url}/{name}", file)
                except FileNotFoundError:
                    pickles = [p for p in PICKLES if name == WEIGHTS and reader.has(f"{url}/{p}")]
                    raise missing(url, [name], pickles) from None


class _Reader:
    """Reads URLs with a file system of fsspec."""

    def __init__(self, system: Any) -> None:
        self.system = system

    def has(self, url: str) -> bool:
        return bool(self.system.exists(url))

    def read(self, url: str, file: CountedFile) -> None:
        """Copy `url` into `file`. Raises FileNotFoundError and the exceptions of the driver."""
        with self.system.open(url, "rb") as remote:
            copy(remote.read, file)


class _HttpReader(_Reader):
    """Reads with `get_file`: `open` requests the size first and reports any failure as a missing
    file."""

    def read(self, url: str, file: CountedFile) -> None:
        self.system.get_file(url, file)


@contextmanager
def _reader(location: Location, check: Check) -> Iterator[_Reader]:
    import fsspec  # type: ignore[import-untyped]  # most users of this package do not need it

    # By default, instances are shared and remember listings and credentials.
    if location.scheme not in HTTP:
        yield _Reader(fsspec.filesystem(location.scheme, skip_instance_cache=True))
        return

    import aiohttp
    from fsspec.asyn import sync  # type: ignore[import-untyped]

    sessions: list[aiohttp.ClientSession] = []

    async def guard(request: Any, send: Any) -> Any:
        check(str(request.url))
        return await send(request)

    async def connect(**options: Any) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_READ_TIMEOUT_S
        )
        sessions.append(aiohttp.ClientSession(middlewares=(guard,), timeout=timeout, **options))
        return sessions[0]

    system = fsspec.filesystem(
        location.scheme,
        skip_instance_cache=True,
        get_client=connect,
        # Compressed content would be unpacked before its bytes are counted.
        headers={"Accept-Encoding": "identity"},
    )
    try:
        yield _HttpReader(system)
    finally:
        for session in sessions:
            sync(system.loop, session.close)


@contextmanager
def remote_errors(source: str) -> Iterator[None]:
    """Translate the exceptions of all drivers, which have no common base class, into ours.

    HTTP status 400 to 499 becomes a `SourceError`, like a missing file or permission: the caller
    can fix it.
    """
    try:
        yield
    except ComposerError:
        raise
    except FileNotFoundError as error:
        raise SourceError(f"{quoted(source)} does not exist. Give another source.") from error
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or error.name or str(error)
        raise SourceError(
            f"{quoted(source)} needs a driver that is not installed: `pip install {package}` on "
            "the server."
        ) from error
    except Exception as error:
        detail = f"{type(error).__name__}: {error}".splitlines()[0][:300].rstrip(".: ")
        status = _status(error)
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise store_error(f"write {quoted(source)}", error, writing=True) from error
        if isinstance(error, PermissionError) or (
            400 <= status < 500 and status not in _RETRY_LATER
        ):
            raise SourceError(
                f"{quoted(source)} cannot be read: {detail}. Check that it exists, and the "
                "server's credentials for it."
            ) from error
        if isinstance(error, ValueError) and "Protocol not known" in str(error):
            raise SourceError(
                f"{quoted(source)} has a scheme that fsspec does not know. Give another source."
            ) from error
        raise SourceUnavailableError(
            f"{quoted(source)} did not answer as it should: {detail}. Try again later."
        ) from error


def _status(error: Exception) -> int:
    """Return the HTTP status of an error of aiohttp or the hub's client; 0 if it has none."""
    response = getattr(error, "response", None)
    for owner, name in ((error, "status"), (response, "status_code")):
        status = getattr(owner, name, None)
        if isinstance(status, int):
            return status
    return 0
