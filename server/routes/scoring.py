"""The routes that score texts, find weights from examples, and answer with a grid of weights."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from adapters import CompositionVersion
from composer.errors import ComposerError, quoted
from composer.plan import Limits
from server.auth.access_control import check_role
from server.auth.keys import Role, key_of
from server.compose.access import Pins
from server.compose.catalogue import Catalogue
from server.compose.incoming.request_body import ClientGoneError
from server.compose.incoming.request_body import read_body as read_json
from server.compose.incoming.request_fields import FIELD, check_expected
from server.compose.response.response_fields import affinity_of
from server.compose.response.response_stream import AFFINITY
from server.compose.scoring.fitter import Fitter
from server.compose.scoring.score_answers import ScoreAnswers
from server.compose.scoring.score_bodies import FitBody, ScoreBody
from server.compose.scoring.scorer import Scorer
from server.compose.scoring.scoring_request import ScoringRequest
from server.compose.scoring.sweep_body import SweepBody
from server.compose.scoring.sweeper import Sweeper
from server.engine.port import Body, Engine
from server.errors import InvalidJsonError
from server.http.store_position import position_header
from server.publishing.bodies import read_body
from server.request_record import ScoringKind, record_of
from server.routes.composition_writer import CompositionWriter
from server.routes.compositions import CompositionView

_Body = TypeVar("_Body", bound=BaseModel)

_STORING = "'name' of a fit"


def make_scoring_router(
    engine: Engine,
    scorer: Scorer,
    catalogue: Catalogue,
    limits: Limits,
    writer: CompositionWriter,
    app: ASGIApp,
) -> APIRouter:
    """Return the routes. `app` answers the requests of a sweep; see `Sweeper`."""
    router = APIRouter(tags=["scoring"])
    scores = ScoreAnswers(engine, scorer, catalogue, limits.max_members)
    fitter = Fitter(scorer, catalogue, limits)
    sweeper = Sweeper(app, engine, scorer, catalogue, limits)
    view = CompositionView(writer.compositions, catalogue)

    @router.post(ScoringKind.SCORE)
    async def score(request: Request) -> Response:
        """Score texts under one composition or several, and under every member alone."""
        body = await _read(request, ScoreBody)
        composed = body.compositions is not None or body.composition is not None
        composed = composed or (
            body.model is not None and not catalogue.names_one_model(body.model)
        )
        check_expected(request.scope, composed=composed)
        with catalogue.access.pins() as pins:
            asked = _asked(ScoringKind.SCORE, request, pins)
            return await _answer(asked, await _while_connected(request, scores.of(body, asked)))

    @router.post(ScoringKind.FIT)
    async def fit(request: Request) -> Response:
        """Find the weights of a composition that give examples the highest probability."""
        body = await _read(request, FitBody)
        check_expected(request.scope, composed=True)
        if body.name is not None:
            check_role(key_of(request.scope), Role.COMPOSE, _STORING)
            await writer.check(body.name, request)
        with catalogue.access.pins() as pins:
            asked = _asked(ScoringKind.FIT, request, pins)
            asked.record.note_weights(mixture=body.formula is None)
            fitted = await _while_connected(request, fitter.fit(body, asked))
            if body.name is None:
                return await _answer(asked, fitted)
            version = await _store(body.name, fitted, request)
            headers = {} if version is None else position_header(version.sequence)
            return await _answer(asked, fitted, headers)

    @router.post(ScoringKind.SWEEP)
    async def sweep(request: Request) -> Response:
        """Answer one prompt with every composition of a grid of weights."""
        body = await _read(request, SweepBody)
        check_expected(request.scope, composed=True)
        with catalogue.access.pins() as pins:
            asked = _asked(ScoringKind.SWEEP, request, pins)
            asked.record.note_weights(mixture=False)
            answer = await _while_connected(request, sweeper.sweep(body, asked, request.scope))
            return await _answer(asked, answer)

    async def _store(name: str, fitted: Body, request: Request) -> CompositionVersion | None:
        """Store what a fit has found; say in its answer under which name, or why not.

        The answer is what the client has waited for: it is not replaced by an error.
        """
        fitted["stored"] = None
        if not fitted["converged"]:
            fitted["warnings"].append(
                f"nothing is stored as {quoted(name)}, because the search has not converged."
            )
            return None
        asked = fitted["request"]
        try:
            version = await writer.put(name, asked.get(FIELD, asked["model"]), request)
        except ComposerError as error:
            fitted["warnings"].append(f"nothing is stored as {quoted(name)}: {error.message}")
            return None
        fitted["stored"] = view.whole(version, key_of(request.scope))
        fitted["request"] = {"model": name}
        return version

    return router


async def _read(request: Request, model: type[_Body]) -> _Body:
    """Read the body of a request; a large one in a thread, for its lists may be long.

    Raises:
        ComposerError: it is not JSON, or not what the route takes.
    """
    data = await request.body()
    value = await read_json(data, required=True)
    if value is None:
        raise InvalidJsonError("the body is not a JSON object. Send one.")
    return await run_in_threadpool(read_body, model, value)


def _asked(kind: ScoringKind, request: Request, pins: Pins) -> ScoringRequest:
    return ScoringRequest(kind, key_of(request.scope), pins, record_of(request.scope))


async def _answer(
    asked: ScoringRequest, body: Body, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response that names the adapters that scored the texts, as generated ones do."""
    headers = dict(headers or {})
    if adapters := asked.adapters:
        body["adapters"] = adapters
        headers[AFFINITY.decode()] = affinity_of(adapters)
    return Response(await _json(body), headers=headers, media_type="application/json")


async def _json(body: Body) -> bytes:
    """Return an answer as JSON. Its list `data` may be of megabytes, which take seconds: other
    requests are served between the entries."""
    entries = []
    for entry in body.get("data", ()):
        entries.append(bytes(JSONResponse(entry).body))
        await asyncio.sleep(0)
    others = JSONResponse({name: value for name, value in body.items() if name != "data"})
    data = b',"data":[' + b",".join(entries) + b"]" if "data" in body else b""
    return bytes(others.body)[:-1] + data + b"}"


async def _while_connected(request: Request, work: Coroutine[Any, Any, Body]) -> Body:
    """Return the answer of `work`; cancel it, with all of its requests to the engine, when the
    client disconnects.

    Raises:
        ClientGoneError: the client has disconnected.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
