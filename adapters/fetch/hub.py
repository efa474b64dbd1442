"""Fetch adapters from the Hugging Face hub, or a server with its protocol (HF_ENDPOINT).

huggingface_hub supplies the token: HF_TOKEN, or the file of `hf auth login`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from adapters.disk import store_errors
from adapters.errors import SourceUnavailableError
from adapters.fetch.remote import remote_errors
from adapters.fetch.size_limit import Allowance
from adapters.fetch.urls import Location
from adapters.files import CONFIG, WEIGHTS, missing
from composer.errors import quoted

_TIMEOUT_S = 30


def fetch_hub(location: Location, destination: Path, max_bytes: int) -> str:
    """Write the adapter `hf://org/name[@revision]` into `destination` and return its commit.

    The revision, by default `main`, is resolved once, so both files are of one commit. The hub's
    cache is neither read nor written.

    Raises:
        SourceError: the repository, revision or adapter does not exist, is not accessible, or is
            too large.
        SourceUnavailableError: the network or the hub failed.
        AdapterStoreError: the disk is full or fails.
    """
    with remote_errors(location.url):
        return _fetch(location, destination, Allowance(location.url, max_bytes))


def _fetch(location: Location, destination: Path, allowance: Allowance) -> str:
    # Imported here, because most users of this package do not need it.
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    # huggingface_hub reads HF_ENDPOINT only when it is imported.
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    repository = f"{location.host}/{location.path[0]}"
    info = HfApi(endpoint=endpoint).model_info(
        repository, revision=location.revision, files_metadata=True, timeout=_TIMEOUT_S
    )
    commit = info.sha
    if not commit:
        raise SourceUnavailableError(f"{quoted(location.url)} names no commit. Check HF_ENDPOINT.")
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    if absent := [name for name in (CONFIG, WEIGHTS) if name not in sizes]:
        raise missing(location.url, absent, sorted(sizes))
    Allowance(location.url, allowance.max_bytes).take(sizes[CONFIG] + sizes[WEIGHTS])

    with store_errors(f"write {quoted(location.url)}"):
        scratch = tempfile.TemporaryDirectory(dir=destination, prefix=".hub-")
    with scratch as folder:
        for name in (CONFIG, WEIGHTS):
            try:
                hf_hub_download(
                    repository,
                    name,
                    revision=commit,
                    endpoint=endpoint,
                    local_dir=folder,
                    cache_dir=Path(folder) / "cache",
                    tqdm_class=_counting(allowance),
                )
            except LocalEntryNotFoundError as error:  # a FileNotFoundError, but of the cache
                raise SourceUnavailableError(
                    f"{quoted(location.url)} cannot be fetched: {error.__cause__ or error}. "
                    "Try again later."
                ) from error
            file = Path(folder) / name
            allowance.take(file.stat().st_size)
            file.chmod(0o600)
            file.replace(destination / name)
    return commit


def _counting(allowance: Allowance) -> Any:
    """Return a class of invisible progress bars that end a download beyond the allowance.

    The sizes that the hub states are checked beforehand; the bars count the bytes that it sends. A
    download may have several bars, for bytes received and bytes written, so each counts alone.
    """
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class Counter(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self.counted = Allowance(allowance.source, allowance.max_bytes, allowance.taken)
            super().__init__(*args, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> bool | None:
            self.counted.take(int(n or 0))
            return None

    return Counter
