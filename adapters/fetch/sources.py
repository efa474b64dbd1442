"""The sources of adapters: every adapter's files enter the server through `fetch`.

* a folder or an archive below the folder of adapters, by its path
* `hf://organization/name` or `hf://organization/name@revision`
* any URL that fsspec has a driver for (`https://`, `s3://`, `gs://` …): of a folder that holds the
  two files, or of an archive whose name ends in .zip, .tar, .tar.gz or .tgz

Refused: local paths that lead outside that folder, also through links (`files`); URLs that no entry
of the allow-list covers, also after a redirect (`urls`); archives of another form (`archive`);
anything above the limit of bytes, counted as they arrive; pickles. Whoever fetches an adapter
inspects it afterwards (`inspection`).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import SourceError
from adapters.fetch import urls
from adapters.fetch.archive import unpack_file
from adapters.fetch.hub import fetch_hub
from adapters.fetch.remote import fetch_remote
from adapters.fetch.size_limit import Allowance, both_or_none, copy, new_file
from adapters.fetch.urls import HUB, Location
from adapters.files import CONFIG, WEIGHTS, missing, open_below, open_file_in
from adapters.inspection.problems import listing
from composer.errors import quoted


@dataclass(frozen=True, slots=True)
class SourceRules:
    """The sources that may be read.

    root: the folder of adapters; None allows no local files.
    remote: prefixes of URLs, compared by component: `https://host/a` allows `https://host/a/b`, not
        `https://host/ab`. `hf://` allows all of the hub, `hf://org` an organization. Empty: none.
    max_bytes: of the two files, and of the archive that holds them.
    """

    root: Path | None
    remote: tuple[str, ...]
    max_bytes: int

    def __post_init__(self) -> None:
        """Raise SourceError if a prefix is not a URL."""
        self._prefixes()

    def check(self, location: Location) -> None:
        """Raise SourceError unless a prefix covers the location."""
        if not any(prefix.allows(location) for prefix in self._prefixes()):
            allowed = listing([quoted(prefix) for prefix in self.remote])
            raise SourceError(
                f"{quoted(location.url)} is not in the server's list of allowed sources. "
                + (
                    f"Use one below {allowed}."
                    if allowed
                    else "It allows no remote sources: start it with --adapter-source, or upload "
                    "the files."
                )
            )

    def _prefixes(self) -> list[Location]:
        return [urls.parse(prefix, prefix=True) for prefix in self.remote]


def fetch(source: str, destination: Path, rules: SourceRules) -> dict[str, object]:
    """Write the adapter of `source` into the existing folder `destination`, files of mode 0600.

    Return the origin for the record: `source`, and for the hub the commit as `revision`. If it
    fails, neither file remains.

    Raises:
        SourceError: the source is not allowed, does not exist, or is not an adapter.
        SourceUnavailableError: the network, the hub or a server failed.
        AdapterStoreError: the disk is full or fails.
    """
    with both_or_none(destination):
        if "://" not in source:
            _fetch_local(source, destination, rules)
            return {"source": source}
        location = urls.parse(source)
        rules.check(location)
        if location.scheme == HUB:
            revision = fetch_hub(location, destination, rules.max_bytes)
            return {"source": source, "revision": revision}
        fetch_remote(
            location,
            destination,
            rules.max_bytes,
            lambda url: rules.check(urls.parse(url, query=True)),
        )
        return {"source": location.url}


def _fetch_local(source: str, destination: Path, rules: SourceRules) -> None:
    if rules.root is None:
        raise SourceError(
            f"{quoted(source)} is a local path, and this server has no folder of adapters. "
            "Start it with --adapter-root, or upload the adapter."
        )
    descriptor = open_below(rules.root, source)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        with os.fdopen(descriptor, "rb") as file:
            unpack_file(file, source, destination, rules.max_bytes)
        return
    try:
        allowance = Allowance(source, rules.max_bytes)
        for name in (CONFIG, WEIGHTS):
            opened = open_file_in(rules.root, source, descriptor, name)
            if opened is None:
                raise missing(source, [name], sorted(os.listdir(descriptor)))
            with os.fdopen(opened, "rb") as file, new_file(destination, name, allowance) as new:
                copy(file.read, new)
    finally:
        os.close(descriptor)
