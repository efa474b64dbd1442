"""The field `explanation` of a response: what every member thought of each token (`explain`)."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

from server.compose.scoring.score_fields import IMPOSSIBLE
from server.engine.port import Body, Engine, ExplainedPart

_DIGITS = 6


@dataclass(slots=True)
class _Tally:
    """Sums over the tokens of one answer."""

    tokens: int = 0
    compared: bool = False  # with the base
    changed: int = 0
    logprob: float = 0.0
    kl: float = 0.0
    of_members: list[float] = field(default_factory=list)  # contributions or responsibilities
    sizes: list[float] = field(default_factory=list)  # of contributions


@dataclass(slots=True)
class Explainer:
    """Explains the answers to one request, in parts while they grow.

    engine: has the figures.
    report_id: the id under which the engine keeps them.
    models: the model of each row, None for one that was added to compare with; of a switch, of each
        candidate.
    mixed: whether probabilities are mixed.
    switches: whether one row changes its adapter.
    prompts, n: prompts of the request, and answers to each.
    """

    engine: Engine
    report_id: str
    models: tuple[str | None, ...]
    mixed: bool = False
    switches: bool = False
    prompts: int = 1
    n: int = 1
    _seen: dict[str, int] = field(default_factory=dict)
    _tallies: dict[int, _Tally] = field(default_factory=dict)
    _over: bool = False

    async def more(self) -> Body | None:
        """Return what has become known since the last call; None if nothing has."""
        answers = await self._answers(last=False, limit=None)
        return {"answers": answers} if answers else None

    async def rest(self, answer_tokens: int | None) -> Body:
        """Return what is left, with the members' names and a summary of each answer.

        `answer_tokens`: length of the answer, if there is one: the engine may be a token ahead.
        """
        answers = {a["index"]: a for a in await self._answers(last=True, limit=answer_tokens)}
        for index, tally in sorted(self._tallies.items()):
            answer = answers.setdefault(index, {"index": index, "tokens": []})
            answer["summary"] = self._summary(tally)
        return {"members": self._members, "answers": [answers[k] for k in sorted(answers)]}

    async def close(self) -> None:
        """Let the engine forget what will not be asked for."""
        if not self._over and self.engine.alive:
            await self.engine.drop_explanation(self.report_id)

    @property
    def _rows(self) -> tuple[int, ...]:
        """The rows that the response shows."""
        return tuple(k for k, model in enumerate(self.models) if model is not None)

    @property
    def _members(self) -> list[str]:
        return [model for model in self.models if model is not None]

    async def _answers(self, *, last: bool, limit: int | None) -> list[Body]:
        tokens: dict[int, list[Body]] = defaultdict(list)
        more = True
        while more:  # in between, the engine and the event loop attend to others
            parts = await self.engine.explained_parts(self.report_id, self._seen, last=last)
            for part in parts:
                tokens[self._index(part)] += self._explained(part, limit)
            more = any(part.more for part in parts)
        self._over = self._over or last
        return [
            {"index": index, "tokens": tokens[index]} for index in sorted(tokens) if tokens[index]
        ]

    def _explained(self, part: ExplainedPart, limit: int | None) -> list[Body]:
        """Return the tokens of a part, and count them."""
        first = self._seen.get(part.name, 0)
        self._seen[part.name] = first + len(part.tokens)
        figures = part.tokens
        if limit is not None and self.prompts * self.n == 1:
            figures = figures[: max(limit - first, 0)]
        tokens = [self._token(values, first + k) for k, values in enumerate(figures)]
        tally = self._tallies.setdefault(self._index(part), _Tally())
        for token in tokens:
            self._count(tally, token)
        return tokens

    def _index(self, part: ExplainedPart) -> int:
        """Return the place of an answer among the choices of the response."""
        return (part.prompt * self.n if self.prompts > 1 else 0) + part.number

    def _token(self, found: Body, position: int) -> Body:
        def shown(values: list[float]) -> list[float]:
            return [values[k] for k in self._rows]

        token: Body = {
            "position": position,
            "id": found["id"],
            "token": self.engine.detokenize((found["id"],)),
            "logprob": _log_prob(found["logprob"]),
            "best": self._best(found["best"]),
        }
        if self.switches:
            return token | {"model": self.models[found["candidate"]]}
        token["member_logprobs"] = [_log_prob(value) for value in shown(found["member_logprobs"])]
        for name in ("contributions", "responsibilities", "weights"):
            if name in found:
                token[name] = [_number(value) for value in shown(found[name])]
        if (base := found.get("base")) is not None:
            token["base"] = {
                "logprob": _log_prob(base["logprob"]),
                "kl": _number(base["kl"]),
                "rank": base["rank"],
                "best": self._best(base["best"]),
            }
            token["changed"] = found["best"][0][0] != base["best"][0][0]
        return token

    def _best(self, best: list[tuple[int, float]]) -> list[Body]:
        return [
            {"id": id, "token": self.engine.detokenize((id,)), "logprob": _log_prob(value)}
            for id, value in best
            if value > IMPOSSIBLE
        ]

    def _count(self, tally: _Tally, token: Body) -> None:
        tally.tokens += 1
        tally.logprob += token["logprob"]
        if "base" in token:
            tally.compared = True
            tally.changed += token["changed"]
            tally.kl += token["base"]["kl"] or 0.0
        of_members = token.get("contributions") or token.get("responsibilities") or []
        if not tally.of_members:
            tally.of_members = [0.0] * len(of_members)
            tally.sizes = [0.0] * len(of_members)
        for k, value in enumerate(of_members):
            tally.of_members[k] += value or 0.0
            tally.sizes[k] += abs(value or 0.0)

    def _summary(self, tally: _Tally) -> Body:
        """Return means over the tokens of an answer.

        `influence` is the share of each member in all that moved tokens, in the spirit of TuCo
        ("True Contribution of Fine-Tuning"), on logits.
        """
        count = max(tally.tokens, 1)
        summary: Body = {
            "tokens": tally.tokens,
            "logprob": _number(tally.logprob / count),
        }
        if self.switches:
            return summary
        if tally.compared:
            summary |= {"changed": _number(tally.changed / count), "kl": _number(tally.kl / count)}
        means = [_number(value / count) for value in tally.of_members]
        if self.mixed:
            return summary | {"responsibilities": means}
        total = sum(tally.sizes)
        influence = [_number(size / total) if total else 0.0 for size in tally.sizes]
        return summary | {"contributions": means, "influence": influence}


def _number(value: float) -> float | None:
    """Return a figure for a response: JSON has no infinity."""
    return round(value, _DIGITS) if math.isfinite(value) else None


def _log_prob(value: float) -> float:
    return round(max(value, IMPOSSIBLE), _DIGITS)
