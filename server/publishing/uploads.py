"""What a publication brings: a source to fetch, a recipe to compute, or the files themselves."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from adapters import (
    CONFIG,
    EMPTY_PROFILE,
    WEIGHTS,
    Policy,
    Profile,
    SourceRules,
    Store,
    fetch,
    unpack,
)
from adapters.disk import store_errors
from composer.errors import quoted
from server.errors import RequestError
from server.publishing.bodies import (
    Publication,
    UploadFields,
    json_object,
    parse_json,
    read_body,
)
from server.publishing.publisher import Fetch
from server.publishing.store_threads import StoreThreads
from server.publishing.weight_jobs import WeightSpace

_FILES = (CONFIG, WEIGHTS)
_ARCHIVE = "archive"
_FIELDS = tuple(UploadFields.model_fields)


@dataclass(frozen=True, slots=True)
class Upload:
    """What a request to publish asks for."""

    fetch: Fetch
    policy: Policy | None = None
    profile: Profile = EMPTY_PROFILE


class Uploads:
    """Reads requests to publish; files that come with them wait in the staging of `store`."""

    def __init__(
        self, rules: SourceRules, weights: WeightSpace, store: Store, threads: StoreThreads
    ) -> None:
        self._rules = rules
        self._weights = weights
        self._store = store
        self._threads = threads

    def from_source(self, source: str) -> Fetch:
        """Return a function that fetches a folder, an archive or a repository."""
        return lambda destination: fetch(source, destination, self._rules)

    @asynccontextmanager
    async def received(self, request: Request) -> AsyncIterator[Upload]:
        """Yield the upload; its files last as long as the block.

        Raises:
            ComposerError: the body cannot be read; the message names the value and the remedy.
        """
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type == "application/json":
            yield self._from_json(await json_object(request))
            return
        # A folder of the store's own: `prune` removes folders without a living owner.
        staging = ExitStack()
        folder = await self._threads.changes.admit(
            lambda: staging.enter_context(self._store.staging())
        )
        try:
            if content_type == "multipart/form-data":
                yield await self._from_form(request, folder)
            else:
                yield await self._from_archive(request, folder / _ARCHIVE, content_type)
        finally:
            await self._threads.changes.run(staging.close)

    def _from_json(self, value: Mapping[str, Any]) -> Upload:
        body = read_body(Publication, value)
        if body.merge is not None:
            fetch = self._weights.merge(body.merge)
        elif body.extract is not None:
            fetch = self._weights.extract(body.extract)
        elif body.patch is not None:
            fetch = self._weights.patch(body.patch)
        else:
            fetch = self.from_source(str(body.source))
        return Upload(fetch, body.policy, body.profile)

    async def _from_archive(self, request: Request, file: Path, content_type: str) -> Upload:
        with store_errors("keep the upload", writing=True), file.open("wb") as out:
            async for part in request.stream():
                await run_in_threadpool(out.write, part)
        if not file.stat().st_size:
            raise RequestError(
                'the body is empty. Send {"source": "..."} as application/json, a .zip or .tar.gz '
                f"archive, or a form with the files {' and '.join(_FILES)}."
            )

        def unpacked(destination: Path) -> Mapping[str, object]:
            unpack(file, destination, self._rules.max_bytes)
            return {"upload": content_type or "archive"}

        return Upload(unpacked)

    async def _from_form(self, request: Request, folder: Path) -> Upload:
        fields: dict[str, Any] = {}
        async with request.form(max_files=len(_FILES), max_fields=len(_FIELDS)) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    await self._keep(name, value, folder)
                elif name in fields:
                    raise RequestError(f"the form has the field '{name}' twice. Send it once.")
                elif name in _FIELDS:
                    fields[name] = parse_json(value, f"the field '{name}'", "Send JSON.")
                else:
                    raise RequestError(
                        f"the form has the field {quoted(name)}. Send files, and "
                        f"{', '.join(_FIELDS)} as JSON."
                    )
        body = read_body(UploadFields, fields)

        def copied(destination: Path) -> Mapping[str, object]:
            if (archive := folder / _ARCHIVE).is_file():
                unpack(archive, destination, self._rules.max_bytes)
                return {"upload": "archive in a form"}
            for file in _FILES:
                if not (folder / file).is_file():
                    raise RequestError(
                        f"the form has no file called {file}. Send {' and '.join(_FILES)}."
                    )
                shutil.move(folder / file, destination / file)
            return {"upload": "form"}

        return Upload(copied, body.policy, body.profile)

    async def _keep(self, field: str, file: UploadFile, folder: Path) -> None:
        name = _ARCHIVE if field == _ARCHIVE else file.filename
        if name not in (_ARCHIVE, *_FILES):
            raise RequestError(
                f"the form has a file called {quoted(str(name))}. "
                f"Send {' and '.join(_FILES)}, or one archive in the field '{_ARCHIVE}'."
            )
        if (folder / name).exists():
            raise RequestError(f"the form has the file {name} twice. Send it once.")
        with store_errors("keep the upload", writing=True), (folder / name).open("wb") as out:
            await run_in_threadpool(shutil.copyfileobj, file.file, out)
