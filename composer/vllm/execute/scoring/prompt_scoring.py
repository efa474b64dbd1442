"""Composed logits of prompts: what `prompt_logprobs` of a composed request are computed from.

The scheduler lets all rows of a gang compute the scored part of their prompts in equal chunks
(`Gang.scored`), so that one step has every member's hidden states at the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from composer.tensors.compose import Composition
from composer.tensors.gang_rows import GangRows, aligned
from composer.tensors.mixture_kernel import Turn
from composer.vllm.execute.adapter_switch import Switches
from composer.vllm.execute.answer_ledger import AnswerLedger
from composer.vllm.execute.batch_view import BatchView
from composer.vllm.execute.mixture_state import PROMPT_CHUNK, MixtureRouting
from composer.vllm.execute.scoring.score_account import (
    ScoreAccount,
    divergences,
    moments,
    target_scores,
)
from composer.vllm.schedule.gang import RowTag
from composer.vllm.workarounds.lm_head_lora import lm_head_adapters

KEPT_LAYOUTS = 64
"""Compositions that are kept for the next chunk of equal length, and for other weights."""


@dataclass(frozen=True, slots=True)
class _Place:
    """The row of a member in the step in progress."""

    model: int  # index among the views
    row: int


class PromptScoring:
    """Composes the prompts of one engine's gangs. Gangs go by the request ids of their leaders."""

    def __init__(
        self,
        views: Sequence[BatchView],
        mixtures: MixtureRouting,
        switches: Switches | None,
        device: torch.device,
        pin_memory: bool,
    ) -> None:
        """`views`: the base model's batch, then those of the auxiliary models in their order."""
        self._views = views
        self._mixtures = mixtures
        self._switches = switches
        self._starts: dict[str, tuple[int, torch.Tensor]] = {}
        """By gang whose weights change: the slot of its states, and the state before the part that
        is scored."""
        self._layout = lru_cache(KEPT_LAYOUTS)(lambda gangs: Composition(gangs, device, pin_memory))
        self._accounts: dict[str, ScoreAccount] = {}  # by gang
        self.ledger = AnswerLedger()

    def begin_step(self) -> None:
        """Note how routed mixtures stand before the first scored token. Call it before the prompts
        of the step count for them."""
        base = self._views[0]
        if not (self._mixtures and base.computing):
            return
        for row, tag in base.tags.by_row.items():
            if tag.scored and tag.mixture is not None and tag.mixture.is_routed:
                step = base.step
                if step.computed[row] == step.prompt_lengths[row] - 1 - tag.scored:
                    self._begin(tag)

    def forget(self, finished: Iterable[str]) -> None:
        """Drop requests that have left the engine."""
        for request_id in finished:
            if self._accounts.pop(request_id, None) is not None:
                self.ledger.close(request_id)
            if (start := self._starts.pop(request_id, None)) is not None:
                self._mixtures.states.give_back(start[0])

    def tracked(self) -> list[str]:
        """Return the gangs whose states or scores are kept."""
        return [*self._starts, *self._accounts]

    @torch.inference_mode()
    def composed(self, leader: str, prompt: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the composed logits of what the step in progress has computed of a scored prompt.

        Yields:
            The index in the prompt of the first token that they predict, and the logits `[C, V]`
            float32 of that token and those after it.
        """
        base = self._views[0].step
        row = base.row_of[leader]
        tag = self._views[0].tags.by_row[row]
        first = base.computed[row]
        last = min(base.computed_after(row), len(prompt) - 1)
        barrier = len(prompt) - 1 - tag.scored
        places = self._places(tag)
        if first < barrier or len(places) < tag.size:
            return
        self._check_lock_step(places)
        account = self._account(tag)
        if account is not None and first == barrier:
            account.begin()
        at_once = max(1, PROMPT_CHUNK // tag.size)
        for begin in range(first, last, at_once):
            end = min(begin + at_once, last)
            rows = self._member_logits(tag, places, begin, end)
            targets = prompt[begin + 1 : end + 1]
            if account is not None:
                self._read_members(account, tag, places, rows, targets)
            if tag.mixture is not None and tag.mixture.is_routed:
                logits = self._routed(tag, places, rows, begin - barrier, targets)
            else:
                logits = self._composed(tag, places, rows, tag.weights, end - begin)
            if account is not None:
                ids = torch.tensor(targets, device=logits.device)
                account.composed.append(target_scores(logits, ids).cpu())
                if tag.switch is not None and self._switches is not None:
                    account.choices += self._switches.candidates_between(leader, begin, end)
            yield begin + 1, logits

    def _begin(self, tag: RowTag) -> None:
        states = self._mixtures.states
        if tag.gang not in self._starts:
            slot = states.take(tag.size)
            state = states.first(self._mixtures.slot(tag.gang)).clone()
            self._starts[tag.gang] = slot, state
        slot, state = self._starts[tag.gang]  # a preempted gang begins again
        states.first(slot)[:, : state.shape[1]] = state

    def _account(self, tag: RowTag) -> ScoreAccount | None:
        """Return the account of a gang that wants more than prompt logprobs."""
        if tag.scoring is None:
            return None
        if tag.gang not in self._accounts:
            account = self._accounts[tag.gang] = ScoreAccount()
            self.ledger.open(tag.gang, tag.scoring.report_id, lambda: account)
        return self._accounts[tag.gang]

    def _read_members(
        self,
        account: ScoreAccount,
        tag: RowTag,
        places: Sequence[_Place],
        rows: Sequence[torch.Tensor | None],
        targets: Sequence[int],
    ) -> None:
        """Note what a plan wants to know of its members at `targets`, before they are composed."""
        scoring = tag.scoring
        assert scoring is not None
        if not (scoring.members or scoring.weights):
            return
        base, *auxiliary = rows
        assert base is not None
        count = len(targets)
        ids = torch.tensor(targets, device=base.device)
        nth = [[p.model for p in places[:k]].count(place.model) for k, place in enumerate(places)]
        members = [
            aligned(part[n * count : (n + 1) * count].float(), base.shape[1])
            for place, n in zip(places, nth, strict=True)
            if (part := rows[place.model]) is not None
        ]  # K of [C, V]
        if scoring.members:
            account.members.append(torch.stack([target_scores(m, ids) for m in members]).cpu())
        log_p: torch.Tensor | None = None  # [C, V]
        if scoring.divergences:
            own = self._composed(tag, places, [base.clone(), *auxiliary], tag.weights, count)
            log_p = own.log_softmax(1)
        scores, distances, gradients, hessians = [], [], [], []
        for weights in scoring.weights:
            composed = self._composed(tag, places, [base.clone(), *auxiliary], weights, count)
            scores.append(target_scores(composed, ids))
            if log_p is not None:
                distances.append(divergences(log_p, composed))
            if scoring.moments:
                gradient, hessian = moments(composed, torch.stack(members), ids)
                gradients.append(gradient)
                hessians.append(hessian)
        if scores:
            account.weights.append(torch.stack(scores).cpu())
        if distances:
            account.divergences.append(torch.stack(distances).cpu())
        if gradients:
            account.gradients.append(torch.stack(gradients).cpu())
            account.hessians.append(torch.stack(hessians).cpu())

    def _composed(
        self,
        tag: RowTag,
        places: Sequence[_Place],
        rows: Sequence[torch.Tensor | None],
        weights: tuple[float, ...],
        count: int,
    ) -> torch.Tensor:
        """Return `[C, V]` float32, composed with these weights; overwrite the base's rows."""
        base, *auxiliary = rows
        assert base is not None
        composition = self._layout(_side_by_side(tag, places, weights, count))
        composition.compose(base, *auxiliary, constrained=False)
        return base[:count]

    def _places(self, tag: RowTag) -> list[_Place]:
        """Return where the members are, in their order; fewer than there are if some are absent."""
        place_of = {
            other.index: _Place(model, row)
            for model, view in enumerate(self._views)
            if view.computing
            for row, other in view.tags.by_row.items()
            if other.gang == tag.gang
        }
        return [place_of[index] for index in sorted(place_of)]

    def _check_lock_step(self, places: Sequence[_Place]) -> None:
        steps = [self._views[place.model].step for place in places]
        counts = {
            step.starts[place.row + 1] - step.starts[place.row]
            for step, place in zip(steps, places, strict=True)
        }
        if len(counts) > 1:
            raise RuntimeError(
                f"members of a scored gang computed {sorted(counts)} tokens in one step; "
                "this is a bug, please report it"
            )

    def _member_logits(
        self, tag: RowTag, places: Sequence[_Place], begin: int, end: int
    ) -> list[torch.Tensor | None]:
        """Return the logits of each model's members at `count = end - begin` tokens, member after
        member, `[M * count, v]`.

        Those of the base are float32; None for a model without a member. `begin` and `end` count
        from the beginning of the leader's prompt.
        """
        leader = places[0]
        offset, count = begin - self._views[0].step.computed[leader.row], end - begin
        logits: list[torch.Tensor | None] = []
        for model, view in enumerate(self._views):
            members = [place.row for place in places if place.model == model]
            if not members:
                logits.append(None)
                continue
            step = view.step
            hidden = torch.cat(
                [
                    step.hidden_states[
                        step.starts[row] + offset : step.starts[row] + offset + count
                    ]
                    for row in members
                ]
            )
            adapters = [step.adapters[row] for row in members for _ in range(count)]
            if tag.switch is not None and self._switches is not None:
                adapters = self._switches.adapters_between(tag.gang, begin, end)
            with lm_head_adapters(view.runner, tuple(adapters)):
                rows = view.runner.model.compute_logits(hidden)
            logits.append(rows.float() if model == 0 else rows)
        return logits

    def _routed(
        self,
        tag: RowTag,
        places: Sequence[_Place],
        rows: Sequence[torch.Tensor | None],
        position: int,
        targets: Sequence[int],
    ) -> torch.Tensor:
        """Return `[C, V]`, composed token by token: each changes the weights of the next.

        `position` counts the scored tokens before `targets`.
        """
        composition = self._layout(_side_by_side(tag, places, tag.weights, 1))
        routed, states = composition.routed, self._mixtures.states
        assert routed is not None
        slot, _ = self._starts[tag.gang]
        composed = []
        for index, target in enumerate(targets):
            base, *auxiliary = (
                None if r is None else r[index :: len(targets)].clone() for r in rows
            )
            assert base is not None
            routed.prepare([Turn(slot, position + index)], states)
            composition.compose(base, *auxiliary, constrained=False)
            routed.update(torch.full((len(base), 1), target, device=base.device))
            composed.append(base[:1])
        return torch.cat(composed)


def _side_by_side(
    tag: RowTag, places: Sequence[_Place], weights: tuple[float, ...], count: int
) -> tuple[GangRows, ...]:
    """Return a gang for each of `count` tokens, in the order of `_member_logits`."""
    models = tuple(place.model for place in places)
    nth = [models[:k].count(model) for k, model in enumerate(models)]
    return tuple(
        GangRows(
            tuple(n * count + index for n in nth),
            weights,
            tag.filters,
            models,
            tag.mixture,
            tag.gang,
        )
        for index in range(count)
    )
