"""What the server knows about one request: for its metrics, its log line and its trace."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from composer.formula import format_sum

HEADER = "X-Request-Id"

PLAIN = "plain"
"""The composition of a request to one model."""

UNKNOWN = "unknown"
"""The recipe of a request that was refused before its composition was read."""

_OPERATORS = frozenset("+*()")
_STATE = "composer_record"
_ID = re.compile(r"[A-Za-z0-9_.:@/+=-]{1,128}")
"""What of a client's id goes into logs and headers as it is."""


@dataclass(slots=True)
class RequestRecord:
    """One request. Whoever learns something of it adds that here."""

    id: str
    composition: str = PLAIN
    """Name of a stored composition, `auto`, `formula`, `field`, or `PLAIN`: a bounded set."""

    recipe: str = PLAIN
    plan: str | None = None
    """As a formula, without the texts of prompts."""

    rows: int = 0
    adapters: tuple[str, ...] = ()
    prompt_tokens: int | None = None
    answer_tokens: int | None = None

    @property
    def composed(self) -> bool:
        """Whether it was more than a request to one model."""
        return self.composition != PLAIN

    def attempted(self, body: Mapping[str, Any]) -> None:
        """Note what a request wants to compose, before it is known whether that can be."""
        model = body.get("model")
        if "composition" in body:
            self.composition, self.recipe = "composition", UNKNOWN
        elif isinstance(model, str) and not _OPERATORS.isdisjoint(model):
            self.composition, self.recipe = "formula", UNKNOWN

    def resolved(
        self,
        composition: str,
        recipe: str,
        told: Mapping[str, Any] | None,
        adapters: Iterable[str],
    ) -> None:
        """Note what was composed: its name, its recipe, the answer's field `composition`, and the
        adapters that compute it."""
        self.composition, self.recipe, self.adapters = composition, recipe, tuple(adapters)
        if told is not None:
            self.plan, self.rows = _formula(told["plan"]), told["rows"]

    def count_tokens(self, answer: Mapping[str, Any]) -> None:
        """Take the tokens from the field `usage` of an answer or a chunk, where it has one."""
        usage = answer.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = usage.get("prompt_tokens", usage.get("input_tokens"))
            self.answer_tokens = usage.get("completion_tokens", usage.get("output_tokens"))


def _formula(plan: Mapping[str, Any]) -> str:
    """A plan as a formula. Prompts of members are private: their texts are left out."""
    if "mixture" in plan:
        return str(plan["formula"])
    terms = [
        (member["model"] + ("" if member["prompt"] == "request" else "[...]"), member["weight"])
        for member in plan["members"]
    ]
    return format_sum(terms)


def begin_record(scope: Scope) -> RequestRecord:
    """The record of a new request, with the id that the client gave it, or a new one.

    An id that is too long or holds anything else than letters, digits and `_.:@/+=-` is replaced:
    it would end up in logs.
    """
    given = Headers(scope=scope).get(HEADER, "")
    record = RequestRecord(given if _ID.fullmatch(given) else uuid.uuid4().hex)
    scope.setdefault("state", {})[_STATE] = record
    return record


def record_of(scope: Scope) -> RequestRecord:
    """The record of a request that has passed `server.http.request_log`."""
    record: RequestRecord = scope["state"][_STATE]
    return record
