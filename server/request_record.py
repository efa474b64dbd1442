"""What the server knows about one request: for its metrics, its log line and its trace."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from composer.formula import format_sum
from composer.plan import Plan
from composer.prompts import RequestPrompt

HEADER = "X-Request-Id"

PLAIN = "plain"
"""The composition of a request to one model."""

UNKNOWN = "unknown"
"""The recipe of a request that was refused before its composition was parsed."""

_OPERATORS = frozenset("+*()")
_STATE = "composer_record"
_ID = re.compile(r"[A-Za-z0-9_.:@/+=-]{1,128}")
"""A client's request id that may be copied into logs and headers."""


class ScoringKind(StrEnum):
    """The routes that score texts; the value is the path."""

    SCORE = "/v1/compose/score"
    FIT = "/v1/compose/fit"
    SWEEP = "/v1/compose/sweep"

    @property
    def word(self) -> str:
        """`score`, `fit` or `sweep`, as metrics say it."""
        return self.name.lower()


@dataclass(slots=True)
class RequestRecord:
    """One request; each layer adds what it learns.

    composition: name of a stored composition, `auto`, `formula`, `composition` or `PLAIN`, which is
        a bounded set.
    formula: what is computed, without the texts of prompts.
    texts, scored_tokens: what the engine has scored; a fit reads every text once in each pass.
    """

    id: str
    composition: str = PLAIN
    recipe: str = PLAIN
    formula: str | None = None
    rows: int = 0
    adapters: tuple[str, ...] = ()
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    texts: int = 0
    scored_tokens: int = 0

    @property
    def composed(self) -> bool:
        """Whether the request is more than a request to one model."""
        return self.composition != PLAIN

    def note_attempt(self, body: Mapping[str, Any]) -> None:
        """Note what a request tries to compose, before it is resolved."""
        model = body.get("model")
        if "composition" in body:
            self.composition, self.recipe = "composition", UNKNOWN
        elif isinstance(model, str) and not _OPERATORS.isdisjoint(model):
            self.composition, self.recipe = "formula", UNKNOWN

    def note_resolution(
        self, composition: str, recipe: str, plan: Plan | None, adapters: Iterable[str]
    ) -> None:
        """Note name, recipe and plan of what is composed, and the aliases of its adapters."""
        self.composition, self.recipe, self.adapters = composition, recipe, tuple(adapters)
        if plan is not None:
            self.formula, self.rows = _formula(plan), plan.rows

    def note_weights(self, *, mixture: bool) -> None:
        """Note that many weights of a formula, or of a mixture, are computed."""
        self.composition = "composition" if mixture else "formula"
        self.recipe = "mixture" if mixture else "sum"

    def note_compositions(self) -> None:
        """Note that several compositions score the same texts."""
        self.composition, self.recipe = "compositions", "several"

    def count_tokens(self, response: Mapping[str, Any]) -> None:
        """Take the token counts from the field `usage` of a response or chunk, if it has one."""
        usage = response.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = usage.get("prompt_tokens", usage.get("input_tokens"))
            self.answer_tokens = usage.get("completion_tokens", usage.get("output_tokens"))


def _formula(plan: Plan) -> str:
    """Return a plan as a formula without the texts of prompts, which are private."""
    if plan.mixture is not None:
        return plan.formula()
    return format_sum(
        (member.model + ("" if isinstance(member.prompt, RequestPrompt) else "[...]"), weight)
        for member, weight in zip(plan.members, plan.weights, strict=True)
    )


def begin_record(scope: Scope) -> RequestRecord:
    """Attach a new record to a request, with the client's id or a new one.

    An id that is too long or has other characters than letters, digits and `_.:@/+=-` is replaced,
    because it would appear in logs.
    """
    client_id = Headers(scope=scope).get(HEADER, "")
    record = RequestRecord(client_id if _ID.fullmatch(client_id) else uuid.uuid4().hex)
    scope.setdefault("state", {})[_STATE] = record
    return record


def record_of(scope: Scope) -> RequestRecord:
    """Return the record of a request that has passed `server.http.request_log`."""
    record: RequestRecord = scope["state"][_STATE]
    return record
