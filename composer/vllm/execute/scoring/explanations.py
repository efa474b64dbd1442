"""What every member thought of each token of an answer, kept until the front end asks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch

from composer.tensors.explain_kernel import ExplainedShape
from composer.tensors.gang_rows import GangRows, aligned, gather_rows
from composer.tensors.mixture_kernel import MixtureKernel
from composer.vllm.execute.adapter_switch import Switches
from composer.vllm.execute.answer_ledger import AnswerLedger, Report
from composer.vllm.execute.batch_view import BatchView
from composer.vllm.schedule.gang import RowTag

AT_ONCE = 16
"""Gangs whose members' logits are copied at once; one on a CPU, whose cache holds no more."""

TOLD_AT_ONCE = 128
"""Tokens of an answer in a report: more would keep the engine from its steps for milliseconds."""

_EMPTY = torch.empty(0)
_T = TypeVar("_T")


@dataclass(slots=True)
class _Answer:
    """An answer that is explained, up to now: its account."""

    shape: ExplainedShape
    weights: tuple[float, ...]  # [K]
    choices: Callable[[], list[int]] | None  # of a switch: the candidate of every token
    ends: frozenset[int]  # tokens that end it
    tokens: dict[int, torch.Tensor] = field(default_factory=dict)  # position -> [F] float32
    complete: bool = False
    length: int | None = None  # once a token that ends it was told

    def since(self, first: int) -> Report:
        """Return what is known from the token at position `first` on: `tokens`, at most
        `TOLD_AT_ONCE`, for each what `ExplainedShape.read` returns, and of a switch its
        `candidate`; and whether there are `more`.

        The last token of an answer that is not complete may still be sampled again. Async
        scheduling samples one more before it learns that the answer has ended.
        """
        known = len(self.tokens) - (not self.complete) if self.length is None else self.length
        if first >= known:
            return {"tokens": [], "more": False}
        end = min(first + TOLD_AT_ONCE, known)
        figures = torch.stack([self.tokens[position] for position in range(first, end)])
        tokens = list(map(self.shape.read, figures.tolist()))
        last = next((k for k, token in enumerate(tokens) if token["id"] in self.ends), None)
        if last is not None:
            del tokens[last + 1 :]
            self.length = end = known = first + len(tokens)
        if self.choices is not None:
            chosen = self.choices()
            for position, token in enumerate(tokens, first):
                token["candidate"] = chosen[position]
        return {"tokens": tokens, "more": end < known}


@dataclass(slots=True)
class Asked:
    """Gangs of one shape in the step in progress, before their tokens are known."""

    shape: ExplainedShape
    gangs: Sequence[GangRows]
    leaders: torch.Tensor  # [G] int64, rows of the base's batch
    members: torch.Tensor  # [K, G, V] float32
    weights: torch.Tensor  # [G, K] float32
    composed: torch.Tensor = _EMPTY  # [G, V] float32


class Explanations:
    """All answers of a worker that are explained. Gangs go by the request ids of their leaders."""

    def __init__(self, views: Sequence[BatchView], switches: Switches | None) -> None:
        """`views`: the base model's batch, then those of the auxiliary models in their order."""
        self._views = views
        self._switches = switches
        self._answers: dict[str, _Answer] = {}
        self._ledger: AnswerLedger[_Answer] = AnswerLedger()

    def __bool__(self) -> bool:
        """Whether there are any: without, a step costs a look at its new requests."""
        return bool(self._answers)

    def add(self, requests: Iterable[Any]) -> None:
        """Note requests that are new to the model runners, once `Switches.add` has; ignore those
        that are not to be explained."""
        for new in requests:
            tag = RowTag.of(new.sampling_params)
            if tag is None or tag.explanation is None or tag.gang in self._answers:
                continue
            choices = None
            if tag.switch is not None and self._switches is not None:
                choices = self._switches.choices(tag.gang)
            shape = ExplainedShape(tag.size, tag.explanation.base, tag.mixture is not None)
            params = new.sampling_params
            ends = frozenset({*(params.stop_token_ids or ()), params.eos_token_id} - {None})
            answer = self._answers[tag.gang] = _Answer(shape, tag.weights, choices, ends)
            self._ledger.open(tag.gang, tag.explanation.report_id, partial(_same, answer))

    def forget(self, finished: Iterable[str]) -> None:
        """Drop requests that have left the engine, before `Switches.forget` does."""
        if not self._answers:
            return
        for request_id in finished:
            if (answer := self._answers.pop(request_id, None)) is not None:
                answer.complete = True
                if answer.choices is not None:
                    answer.choices = partial(_same, answer.choices())
                self._ledger.close(request_id)

    def tracked(self) -> list[str]:
        """Return the gangs that are explained."""
        return list(self._answers)

    def report(self, report_id: str, seen: Mapping[str, int], last: bool) -> list[Report]:
        """Return what is known of each answer: its `name`, and what `_Answer.since` returns of the
        tokens beyond the first `seen`, by name. `last` says that the answers are complete, and
        forgets them once there is no more."""
        answers = self._ledger.peek(report_id)
        if last:
            for _, answer in answers:
                answer.complete = True
        reports = [{"name": name, **answer.since(seen.get(name, 0))} for name, answer in answers]
        if last and not any(report["more"] for report in reports):
            self.drop(report_id)
        return reports

    def drop(self, report_id: str) -> None:
        """Forget the answers to a request: nobody will ask for them."""
        self._ledger.drop(report_id)

    # ---- one step

    def ask(
        self, gangs: Sequence[GangRows], logits_of: Sequence[torch.Tensor | None], constrained: bool
    ) -> list[Asked]:
        """Copy what the members of the step's gangs say, before it is composed.

        Args:
            gangs: all gangs of the step.
            logits_of: the rows of each model, the base's `[R, V]` first.
            constrained: whether a grammar has put minus infinity into the leaders' rows: such
                tokens count as impossible for all members.
        """
        logits, step = logits_of[0], self._views[0].step
        assert logits is not None
        alike: dict[tuple[ExplainedShape, tuple[int, ...]], list[GangRows]] = defaultdict(list)
        for gang in [*gangs, *self._switching()]:
            answer = self._answers.get(gang.name)
            if answer is not None and not step.discarded[gang.rows[0]]:
                models = tuple(gang.model(k) for k in range(len(gang.rows)))
                alike[answer.shape, models].append(gang)
        asked = []
        for (shape, models), group in alike.items():
            at_once = 1 if logits.device.type == "cpu" else AT_ONCE
            for begin in range(0, len(group), at_once):
                part = group[begin : begin + at_once]
                rows = torch.tensor([gang.rows for gang in part], device=logits.device).T
                members = torch.stack(
                    [
                        aligned(gather_rows(logits_of[model], rows[k]), logits.shape[1])
                        for k, model in enumerate(models)
                    ]
                )
                if constrained:
                    members.masked_fill_(members[0] == -math.inf, -math.inf)
                weights = torch.tensor([gang.weights for gang in part], device=logits.device)
                asked.append(Asked(shape, part, rows[0], members, weights))
        return asked

    def note_composed(
        self, asked: Sequence[Asked], logits: torch.Tensor, routed: MixtureKernel | None
    ) -> None:
        """Copy what the leaders' rows have become, `[R, V]`, and the weights that a router chose:
        the sampler changes the one, the next step the other."""
        for part in asked:
            part.composed = logits.index_select(0, part.leaders).float()
            if routed is None or not part.shape.mixed:
                continue
            for place, gang in enumerate(part.gangs):
                if gang.name in routed.names:
                    weights = routed.weights[routed.names.index(gang.name)]
                    part.weights[place] = weights[: part.shape.rows]

    def explain(self, asked: Sequence[Asked], token_ids: torch.Tensor) -> None:
        """Explain what was sampled: `token_ids` `[R, 1]` of any integer type."""
        if not asked:
            return  # reading the step takes a hundredth of a plain one
        step = self._views[0].step
        for part in asked:
            tokens = token_ids.index_select(0, part.leaders).squeeze(1).long()
            figures = part.shape.explain(part.composed, part.members, part.weights, tokens)
            for gang, of_token in zip(part.gangs, figures, strict=True):
                row = gang.rows[0]
                position = max(step.computed_after(row) - step.prompt_lengths[row], 0)
                self._answers[gang.name].tokens[position] = of_token

    def _switching(self) -> list[GangRows]:
        """Return the rows that switch adapters, as gangs of one row."""
        return [
            GangRows((row,), tag.weights, name=tag.gang)
            for row, tag in self._views[0].tags.by_row.items()
            if tag.switch is not None
        ]


def _same(value: _T) -> _T:
    return value
