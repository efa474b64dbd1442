"""The routes that score texts, find weights from examples, and answer with a grid of weights."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from composer.plan import Limits
from server.auth.keys import Key, key_of
from server.compose.catalogue import Catalogue
from server.compose.incoming.request_body import ClientGoneError
from server.compose.incoming.request_fields import FIELD
from server.compose.scoring.fitter import Fitter
from server.compose.scoring.score_bodies import FitBody, ScoreBody
from server.compose.scoring.score_fields import score_fields
from server.compose.scoring.scorer import Question, Score, Scorer
from server.compose.scoring.several import score_several
from server.compose.scoring.sweep_body import SweepBody
from server.compose.scoring.sweeper import Sweeper
from server.engine.port import Body, Engine, RefusedError
from server.publishing.bodies import json_object, read_body

SCORE, FIT, SWEEP = "/v1/compose/score", "/v1/compose/fit", "/v1/compose/sweep"


def make_scoring_router(
    engine: Engine, scorer: Scorer, catalogue: Catalogue, limits: Limits, app: ASGIApp
) -> APIRouter:
    """Return the routes. `app` answers the requests of a sweep; see `Sweeper`."""
    router = APIRouter(tags=["scoring"])
    fitter = Fitter(scorer, catalogue, limits)
    sweeper = Sweeper(app, engine, scorer, catalogue, limits)

    @router.post(SCORE)
    async def score(request: Request) -> Response:
        """Score texts under one composition or several, and under every member alone."""
        body = read_body(ScoreBody, await json_object(request))
        return await _while_connected(request, _scored(body, key_of(request.scope)))

    @router.post(FIT)
    async def fit(request: Request) -> Response:
        """Find the weights of a composition that give examples the highest probability."""
        body = read_body(FitBody, await json_object(request))
        return await _while_connected(request, fitter.fit(body, key_of(request.scope)))

    @router.post(SWEEP)
    async def sweep(request: Request) -> Response:
        """Answer one prompt with every composition of a grid of weights."""
        body = read_body(SweepBody, await json_object(request))
        return await _while_connected(request, sweeper.sweep(body, request.scope))

    async def _scored(body: ScoreBody, key: Key) -> Body:
        if body.compositions is not None:
            by_item, scores, plans = await score_several(
                *(scorer, catalogue, body.items, body.compositions, key),
                max_members=limits.max_members,
                members=body.members,
            )
            data = [
                _item(index, score, None, body.members)
                | {"compositions": [score_fields(values) for values in of_item]}
                for index, (score, of_item) in enumerate(zip(scores, by_item, strict=True))
            ]
            plan: Body = {"plans": plans}
        else:
            ask = {"model": body.model} if body.composition is None else {}
            ask |= {} if body.composition is None else {FIELD: body.composition}
            scores = await scorer.scores(body.items, ask, Question(body.members), key)
            data = [
                _item(index, score, score.log_probs, body.members)
                for index, score in enumerate(scores)
            ]
            plan = {"plan": scores[0].plan}
        usage = {
            "prompt_tokens": sum(score.prompt_tokens for score in scores),
            "scored_tokens": sum(len(score.token_ids) for score in scores),
        }
        return {"object": "list", "data": data, **plan, "usage": usage}

    def _item(index: int, score: Score, log_probs: list[float] | None, members: bool) -> Body:
        item: Body = {
            "index": index,
            "tokens": [engine.detokenize((token,)) for token in score.token_ids],
            "token_ids": list(score.token_ids),
        }
        if log_probs is not None:
            item |= {"formula": score.plan.get("formula"), **score_fields(log_probs)}
        if members:
            item["members"] = [
                {"model": model, **score_fields(values)}
                for model, values in zip(score.members, score.by_member, strict=True)
            ]
        return item

    return router


async def _while_connected(request: Request, work: Coroutine[Any, Any, Body]) -> Response:
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
        return JSONResponse(task.result())
    except RefusedError as error:
        return error.response
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
