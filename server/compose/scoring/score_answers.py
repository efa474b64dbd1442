"""The answers of `POST /v1/compose/score`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from server.compose.catalogue import Catalogue
from server.compose.incoming.request_fields import FIELD
from server.compose.scoring.score_bodies import ScoreBody
from server.compose.scoring.score_fields import score_fields
from server.compose.scoring.scorer import Question, Score, Scorer
from server.compose.scoring.scoring_request import ScoringRequest
from server.compose.scoring.several import score_several
from server.engine.port import Body, Engine


@dataclass(frozen=True, slots=True)
class ScoreAnswers:
    """Scores texts and says what came out.

    max_members: of one pass over the texts.
    texts: of tokens of the vocabulary, by id, once they have been asked for.
    """

    engine: Engine
    scorer: Scorer
    catalogue: Catalogue
    max_members: int
    texts: dict[int, str] = field(default_factory=dict)

    async def of(self, body: ScoreBody, request: ScoringRequest) -> Body:
        """Return the answer to a request.

        Raises:
            ComposerError, RefusedError: a composition or a text cannot be scored.
        """
        if body.compositions is not None:
            request.record.note_compositions()
            several = await score_several(
                *(self.scorer, self.catalogue, body.items, body.compositions, request),
                max_members=self.max_members,
                members=body.members,
                divergences=body.divergences,
            )
            scores = several.scores
            data = [
                await self._item(index, score, None, body.members)
                | {"compositions": _compositions(log_probs, divergences)}
                for index, (score, log_probs, divergences) in enumerate(
                    zip(scores, several.log_probs, several.divergences, strict=True)
                )
            ]
            plan: Body = {"plans": several.plans}
        else:
            ask = {"model": body.model} if body.composition is None else {}
            ask |= {} if body.composition is None else {FIELD: body.composition}
            scores = await self.scorer.scores(body.items, ask, Question(body.members), request)
            data = [
                await self._item(index, score, score.log_probs, body.members)
                for index, score in enumerate(scores)
            ]
            plan = {"plan": scores[0].plan}
        usage = {
            "prompt_tokens": sum(score.prompt_tokens for score in scores),
            "scored_tokens": sum(len(score.token_ids) for score in scores),
        }
        return {"object": "list", "data": data, **plan, "usage": usage}

    async def _item(
        self, index: int, score: Score, log_probs: list[float] | None, members: bool
    ) -> Body:
        await asyncio.sleep(0)  # many long items take seconds, in which others are answered
        texts = self.texts
        for token in set(score.token_ids) - texts.keys():
            texts[token] = self.engine.detokenize((token,))
        item: Body = {
            "index": index,
            "tokens": [texts[token] for token in score.token_ids],
            "token_ids": list(score.token_ids),
        }
        if log_probs is not None:
            item |= {"formula": score.plan.get("formula"), **score_fields(log_probs)}
            if score.chosen:
                item["experts"] = list(score.chosen)
        if members:
            item["members"] = [
                {"model": model, **score_fields(values)}
                for model, values in zip(score.members, score.by_member, strict=True)
            ]
        return item


def _compositions(
    log_probs: Sequence[list[float]], divergences: Sequence[list[float]]
) -> list[Body]:
    """Return the scores of one text under each composition; their divergences, if there are any."""
    shown: list[Body] = [score_fields(values) for values in log_probs]
    for composition, values in zip(shown, divergences, strict=False):
        composition["divergence"] = sum(values) / len(values)
        composition["token_divergences"] = values
    return shown
