"""What a publication brings: a source to fetch, a recipe to compute, or the files themselves."""

from __future__ import annotations

import json
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
from server.errors import InvalidJsonError, RequestError
from server.publishing.publisher import Fetch
from server.publishing.store_threads import StoreThreads
from server.publishing.weight_jobs import WeightSpace

_FILES = (CONFIG, WEIGHTS)
_ARCHIVE = "archive"
_PROFILE = ("examples", "description")
_FIELDS = ("policy", *_PROFILE)


@dataclass(frozen=True, slots=True)
class Upload:
    """What a request to publish asks for."""

    fetch: Fetch
    policy: Policy | None
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
        """Fetches a folder, an archive or a repository that the rules allow."""
        return lambda destination: fetch(source, destination, self._rules)

    @asynccontextmanager
    async def received(self, request: Request) -> AsyncIterator[Upload]:
        """The upload; its files last as long as the block.

        Raises:
            ServerError: the body is none of what the message lists.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            yield await self._from_json(request)
            return
        # A folder of the store's own: others take folders without an owner for leftovers.
        staging = ExitStack()
        folder = await self._threads.changes.admit(
            lambda: staging.enter_context(self._store.staging())
        )
        try:
            if kind == "multipart/form-data":
                yield await self._from_form(request, folder)
            else:
                yield await self._from_archive(request, folder / "archive", kind)
        finally:
            await self._threads.changes.run(staging.close)

    async def _from_json(self, request: Request) -> Upload:
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise InvalidJsonError(f"the body is not JSON: {error}.") from error
        if not isinstance(body, dict):
            raise InvalidJsonError("the body is not a JSON object. Send one.")
        policy = Policy.from_json(body.pop("policy")) if "policy" in body else None
        profile = take_profile(body)
        match body:
            case {"source": str(source), **rest} if not rest:
                return Upload(self.from_source(source), policy, profile)
            case {"merge": dict(spec), **rest} if not rest:
                return Upload(self._weights.merge(spec), policy, profile)
            case {"extract": dict(spec), **rest} if not rest:
                return Upload(self._weights.extract(spec), policy, profile)
            case {"patch": dict(spec), **rest} if not rest:
                return Upload(self._weights.patch(spec), policy, profile)
        raise RequestError(
            f"the body has the fields {sorted(body)}. Give exactly one of 'source' (a text), "
            "'merge', 'extract' and 'patch' (objects), and 'policy', 'examples' and 'description' "
            "if you like; or send the files as an archive or a form."
        )

    async def _from_archive(self, request: Request, file: Path, kind: str) -> Upload:
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
            return {"upload": kind or "archive"}

        return Upload(unpacked, None)

    async def _from_form(self, request: Request, folder: Path) -> Upload:
        told: dict[str, Any] = {}
        async with request.form(max_files=len(_FILES), max_fields=len(_FIELDS)) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    await self._keep(name, value, folder)
                elif name in told:
                    raise RequestError(f"the form has the field '{name}' twice. Send it once.")
                elif name in _FIELDS:
                    told[name] = _read_json(name, value)
                else:
                    raise RequestError(
                        f"the form has the field {quoted(name)}. Send files, and "
                        f"{', '.join(_FIELDS)} as JSON."
                    )
        policy = Policy.from_json(told["policy"]) if "policy" in told else None
        profile = take_profile(told)

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

        return Upload(copied, policy, profile)

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


def take_profile(body: dict[str, Any]) -> Profile:
    """The profile in a request to publish, whose fields are taken out. Raises `ProfileError`."""
    return Profile.from_json({name: body.pop(name) for name in _PROFILE if name in body})


def _read_json(field: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidJsonError(f"the field '{field}' is not JSON: {error}.") from error
