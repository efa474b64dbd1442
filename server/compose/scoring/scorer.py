"""Texts scored by the engine: log-probabilities under compositions, members and other weights."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from composer.capacity import RowNeed
from composer.engine_plan import ENGINE_ARG, EnginePlan, LoadedAdapter, Row, Scoring, Switch
from composer.errors import PromptTooLongError, UnsupportedError
from composer.fields import BASE
from server.auth.quotas import Quotas
from server.compose.access import check_alone
from server.compose.gang_capacity import check_gang
from server.compose.incoming.request_fields import FIELD
from server.compose.resolve import Resolver
from server.compose.scoring.score_bodies import Item
from server.compose.scoring.scoring_request import ScoringRequest
from server.engine.port import Body, Engine, Kind, PromptOverflowError, Tokens

AT_ONCE = 16
"""Texts of one request that the engine reads at the same time."""


@dataclass(frozen=True, slots=True)
class Question:
    """What to compute of a text beside its score; see `composer.engine_plan.Scoring`.

    Weights are by model, where `base` is the base model. `reference` takes the place of the
    composition's own.
    """

    members: bool = False
    weights: tuple[dict[str, float], ...] = ()
    moments: bool = False
    divergences: bool = False
    reference: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """What the engine says of a text of T tokens, for K members and W weights.

    `members` are the models by whose place `by_member` and the moments are ordered; an added row of
    weight 0 is left out.
    """

    token_ids: Tokens  # [T]
    log_probs: list[float]  # [T]
    prompt_tokens: int
    plan: Body
    members: tuple[str, ...]  # [K]
    by_member: list[list[float]]  # [K][T]
    by_weights: list[list[float]]  # [W][T]
    divergences: list[list[float]]  # [W][T], in nats
    gradients: list[list[float]]  # [W][K]
    hessians: list[list[list[float]]]  # [W][K][K]
    chosen: tuple[str, ...] = ()
    """`[T]`, of a router that switches adapters: the expert that each token was scored by."""


class Scorer:
    """Scores texts as requests of a key."""

    def __init__(self, engine: Engine, resolver: Resolver, quotas: Quotas) -> None:
        self._engine = engine
        self._resolver = resolver
        self._quotas = quotas

    async def scores(
        self, items: Sequence[Item], ask: Body, question: Question, request: ScoringRequest
    ) -> list[Score]:
        """Score texts.

        Args:
            items: the texts.
            ask: the fields `model` or `composition` of a request.
            question: what else to compute.
            request: whose texts they are.

        Raises:
            ComposerError, RefusedError: as of a request to the composition.
        """
        # One by one for a key whose rows are counted: its texts must not compete with each other.
        gate = asyncio.Semaphore(AT_ONCE if request.key.rows is None else 1)

        async def one(item: Item) -> Score:
            async with gate:
                return await self._score(item, ask, question, request)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(item)) for item in items]
        except ExceptionGroup as failed:  # the others are cancelled: one answer for one request
            raise failed.exceptions[0] from failed
        return [task.result() for task in tasks]

    async def _score(
        self, item: Item, ask: Body, question: Question, request: ScoringRequest
    ) -> Score:
        completion = await self._completion(item)
        kind, body = _request(item, ask, len(completion))
        async with self._planned(kind, body, request) as (plan, models, shown):
            if question.members:
                check_alone(filter(None, models), request.key, "members")
            beginning = {k: v for k, v in body.items() if k not in (FIELD, "model")}
            prompt = await self._prompt(kind, beginning, len(completion))
            tokens = (*prompt, *completion)
            rows = plan.rows
            if question.reference is not None:
                own = _of_rows(question.reference, models)
                rows = tuple(replace(r, weight=w) for r, w in zip(rows, own, strict=True))
            longer = replace(
                plan,
                rows=tuple(_followed(row, completion) for row in rows),
                scoring=Scoring(
                    len(completion),
                    uuid.uuid4().hex,
                    question.members and plan.switch is None,
                    tuple(_of_rows(weights, models) for weights in question.weights),
                    question.moments,
                    question.divergences,
                ),
            )
            with self._quotas.hold(request.key, len(plan.rows)):
                report = await self._engine.score(tokens, longer)
                if question.members and plan.switch is not None:
                    report["members"] = await self._alone(tokens, plan.switch, len(completion))
        request.count_text(len(prompt), len(completion))
        kept = [k for k, model in enumerate(models) if model is not None]
        if plan.switch is not None:  # its experts may repeat
            kept = [models.index(model) for model in dict.fromkeys(models)]

        def of_members(values: list[Any]) -> list[Any]:
            return [values[k] for k in kept]

        return Score(
            completion,
            report["tokens"],
            len(prompt),
            shown,
            tuple(str(models[k]) for k in kept),
            of_members(report["members"]) if question.members else [],
            report.get("weights", []),
            report.get("divergences", []),
            [of_members(gradient) for gradient in report.get("gradients", [])],
            [[of_members(row) for row in of_members(h)] for h in report.get("hessians", [])],
            tuple(str(models[k]) for k in report.get("choices", ())),
        )

    async def _alone(self, tokens: Tokens, switch: Switch, scored: int) -> list[list[float]]:
        """Score a text under each candidate of a switch, `[K][T]`, in passes of their own: its row
        computes one of them at each token."""
        scores: dict[LoadedAdapter | None, list[float]] = {}
        for candidate in dict.fromkeys(switch.candidates):
            scoring = Scoring(scored, uuid.uuid4().hex)
            plan = EnginePlan((Row(1.0, candidate),), scoring=scoring)
            scores[candidate] = (await self._engine.score(tokens, plan))["tokens"]
        return [scores[candidate] for candidate in switch.candidates]

    async def _prompt(self, kind: Kind, body: Body, completion_tokens: int) -> Tokens:
        prompt = await self._tokenize(kind, body)
        need = RowNeed(None, len(prompt), (), "of an item")
        check_gang([need], completion_tokens + 1, self._engine.capacities)
        return prompt

    async def _completion(self, item: Item) -> Tokens:
        if not isinstance(item.completion, str):
            self._check(tuple(item.completion))
            return tuple(item.completion)
        body = {"prompt": item.completion, "add_special_tokens": False}
        return await self._tokenize(Kind.COMPLETION, body)

    async def _tokenize(self, kind: Kind, body: Body) -> Tokens:
        try:
            return await self._engine.tokenize(kind, body)
        except PromptOverflowError as error:
            raise PromptTooLongError(str(error), param="items") from error

    def _check(self, tokens: Tokens) -> None:
        try:
            self._engine.check_tokens(tokens)
        except ValueError as error:
            raise UnsupportedError(f"the completion: {error}", param="items") from error

    @asynccontextmanager
    async def _planned(
        self, kind: Kind, body: Body, request: ScoringRequest
    ) -> AsyncIterator[tuple[EnginePlan, tuple[str | None, ...], Body]]:
        """Resolve a request, and keep its adapters loaded within the context.

        Yields:
            the plan; the model of each row (of a switch: of each candidate), None for an added row
            of weight 0; and the plan as responses show it.
        """
        resolution = await self._resolver.resolve(kind, body, request.key, request.pins)
        if resolution is None:  # the base alone
            yield EnginePlan((Row(1.0),)), (BASE,), {"formula": BASE}
            return
        with resolution.lease:
            request.note_resolution(resolution)
            shown = resolution.response_fields.composition or {}
            extra = resolution.body.get("vllm_xargs") or {}
            if ENGINE_ARG in extra:
                plan = EnginePlan.from_extra_args(extra)
                assert plan is not None
                plan = replace(plan, report_id=None, explain=False)  # nobody would take the report
                yield plan, resolution.models, shown.get("plan", {})
                return
            generations = resolution.lease.generations
            rows, models = [Row(1.0)], [BASE]
            for alias, generation in generations.items():  # one adapter alone, or none
                path = str(generation.path)
                adapter = LoadedAdapter(generation.engine_name, generation.number, path)
                rows, models = [Row(1.0, adapter)], [alias]
            yield EnginePlan(tuple(rows)), tuple(models), {"formula": models[0]}


def _request(item: Item, ask: Body, completion_tokens: int) -> tuple[Kind, Body]:
    """Return the request that a text is the answer to, and that needs as much room."""
    body: Body = {**ask, "max_tokens": completion_tokens + 1}
    return item.kind, body | item.beginning()


def _followed(row: Row, completion: Tokens) -> Row:
    if row.prompt_token_ids is None:
        return row
    return replace(row, prompt_token_ids=(*row.prompt_token_ids, *completion))


def _of_rows(weights: dict[str, float], models: Sequence[str | None]) -> tuple[float, ...]:
    return tuple(0.0 if model is None else weights.get(model, 0.0) for model in models)
