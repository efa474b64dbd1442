"""One prompt answered by a grid of compositions: `POST /v1/compose/sweep`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from starlette.types import ASGIApp, Receive, Scope

from composer.errors import CompositionError, CompositionSchemaError, EngineFault, quoted
from composer.fitting.affine import AffineFormula
from composer.formula import format_number, parse
from composer.plan import Limits, Member, Plan, normalize
from server.auth.keys import Key
from server.compose.access import PINS
from server.compose.catalogue import Catalogue
from server.compose.incoming.request_body import ClientGoneError, encode_body, replay_body
from server.compose.incoming.request_fields import EXPECT, FIELD
from server.compose.scoring.score_bodies import Item
from server.compose.scoring.score_fields import score_fields
from server.compose.scoring.scorer import AT_ONCE, Scorer
from server.compose.scoring.scoring_request import ScoringRequest
from server.compose.scoring.several import score_several
from server.compose.scoring.sweep_body import Point, SweepBody
from server.engine.port import Body, Engine, Kind, RefusedError
from server.errors import RequestError
from server.http.inner_requests import InnerRequests, InnerResponse, collect_response
from server.request_record import record_of

_REPLACED = tuple(name.lower().encode() for name in ("Content-Type", EXPECT))
"""Headers of a sweep that its requests do not inherit."""


@dataclass(frozen=True, slots=True)
class Sweeper:
    """Answers sweeps. Each point is an ordinary request to `app`, with the rights of the sweep.

    app: counts, resolves and answers a request whose key is known, as if a client had sent it.
    """

    app: ASGIApp
    engine: Engine
    scorer: Scorer
    catalogue: Catalogue
    limits: Limits

    async def sweep(self, body: SweepBody, asked: ScoringRequest, scope: Scope) -> Body:
        """Return the answer to a request.

        Args:
            body: of the request.
            asked: the request, for the scores of its reference.
            scope: of the request, with its key and its record.

        Raises:
            CompositionError: a composition of the grid cannot be computed, or not by this key.
            RequestError, RefusedError: a point is answered by this error.
        """
        key = asked.key
        formula = AffineFormula.parse(body.formula, self.catalogue.member_names.visible_to(key))
        points = body.grid()
        plans = [self._plan(body, formula, point, key) for point in points]
        data: list[Body] = [
            {"index": index, "values": point, "formula": plan.formula()}
            for index, (point, plan) in enumerate(zip(points, plans, strict=True))
        ]
        answer: Body = {"object": "sweep", "formula": body.formula, "free": list(formula.free)}
        if body.reference is not None:
            answer["reference"] = await self._score(body, data, asked)
        # One by one for a key whose rows are counted: its points must not compete with each other.
        async with InnerRequests(AT_ONCE if key.rows is None else 1) as requests:
            scope = {**scope, PINS: asked.pins}
            tasks = [requests.start(partial(self._answer, body, entry, scope)) for entry in data]
            answers = await requests.results(tasks)
        usage: Counter[str] = Counter()
        for entry, answered in zip(data, answers, strict=True):
            entry |= answered
            usage.update(answered["usage"])
        return {**answer, "data": data, "usage": usage}

    def _plan(self, body: SweepBody, formula: AffineFormula, point: Point, key: Key) -> Plan:
        """Return what a point computes.

        Raises:
            CompositionError: a name has no value, or this key may not compute the plan.
        """
        field = "values" if body.points is None else "points"
        formula.check_names(field, point)
        for name in formula.free:
            if name not in point:
                raise CompositionSchemaError(
                    f"{quoted(name)} is not a model that this API key may use, and has no value. "
                    "Give it a value at each point, or name a model.",
                    param=field,
                )
        terms = ((Member(model), weight) for model, weight in parse(body.formula, point))
        try:
            plan = normalize(terms, limits=self.limits)
            self.catalogue.access.check_plan(plan, key)
        except CompositionError as error:
            values = ", ".join(f"{name} = {format_number(v)}" for name, v in point.items())
            error.message, error.param = f"at {values}: {error.message}", field
            raise
        return plan

    async def _score(self, body: SweepBody, data: Sequence[Body], asked: ScoringRequest) -> Body:
        """Score the reference under the formula of each point; return its tokens."""
        assert body.reference is not None
        item = Item(prompt=body.prompt, messages=body.messages, completion=body.reference)
        formulas = [entry["formula"] for entry in data]
        try:
            several = await score_several(
                *(self.scorer, self.catalogue, [item], formulas, asked, self.limits.max_members)
            )
        except CompositionError as error:
            if error.param == "items":
                error.param = "reference"
            raise
        (log_probs,), score = several.log_probs, several.scores[0]
        for entry, values in zip(data, log_probs, strict=True):
            entry["reference"] = score_fields(values)
        tokens = [self.engine.detokenize((token,)) for token in score.token_ids]
        return {"tokens": tokens, "token_ids": list(score.token_ids)}

    async def _answer(self, body: SweepBody, entry: Body, scope: Scope, receive: Receive) -> Body:
        """Return text, finish reason and usage of a point."""
        request = {**body.beginning(), **body.sampling(), FIELD: entry["formula"]}
        name = f"{record_of(scope).id}-{entry['index']}"
        answer = _answer_of(await _post(self.app, scope, body.kind, request, name, receive))
        (choice,) = answer["choices"]
        text = choice["text"] if body.messages is None else choice["message"]["content"]
        counts = ("prompt_tokens", "completion_tokens", "total_tokens")
        return {
            "text": text or "",
            "finish_reason": choice["finish_reason"],
            "usage": {count: answer["usage"][count] for count in counts},
        }


async def _post(
    app: ASGIApp, scope: Scope, kind: Kind, body: Body, request_id: str, receive: Receive
) -> InnerResponse:
    """Send a request to a route of vLLM with the key and the headers of the request of `scope`."""
    kept = [(name, value) for name, value in scope["headers"] if name.lower() not in _REPLACED]
    added = (b"content-type", b"application/json")
    path = scope.get("root_path", "") + kind.value
    data, scope = encode_body(body, {**scope, "headers": [*kept, added]})
    to_route = {"path": path, "raw_path": path.encode(), "query_string": b""}
    return await collect_response(
        app, {**scope, **to_route}, replay_body(data, receive), request_id
    )


def _answer_of(response: InnerResponse) -> Body:
    """Return the answer to the request of a point.

    Raises:
        ClientGoneError: the sweep has ended before the request.
        RefusedError, RequestError, EngineFault: the answer is an error.
    """
    answer = response.json_object()
    if "choices" in answer:
        return answer
    error = answer.get("error")
    if not isinstance(error, dict):
        raise ClientGoneError
    if isinstance(error.get("code"), str):
        raise RefusedError(response.for_client())
    if response.status < 500:  # vLLM's own error, in this server's format
        raise RequestError(error["message"], param=error.get("param"))
    raise EngineFault("the server failed while it was answering. Ask again.")
