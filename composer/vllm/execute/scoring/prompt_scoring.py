"""Composed logits of prompts: what `prompt_logprobs` of a composed request are computed from.

The scheduler lets all rows of a gang compute the scored part of their prompts in equal chunks
(`Gang.scored`), so that one step has every member's hidden states at the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from composer.vllm.execute.adapter_switch import Switches
from composer.vllm.execute.answer_ledger import AnswerLedger
from composer.vllm.execute.batch_view import BatchView
from composer.vllm.execute.mixture_state import PROMPT_CHUNK, MixtureRouting
from composer.vllm.execute.scoring.further_scores import note_further_scores
from composer.vllm.execute.scoring.member_logits import MemberLogits
from composer.vllm.execute.scoring.routed_scores import RoutedScores, is_routed
from composer.vllm.execute.scoring.score_account import ScoreAccount, target_scores
from composer.vllm.execute.scoring.scored_chunk import ChunkComposer
from composer.vllm.schedule.gang import RowTag


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
        self._base = views[0]
        self._switches = switches
        self._members = MemberLogits(views, switches)
        self._composer = ChunkComposer(device, pin_memory)
        self._routed = RoutedScores(mixtures, self._composer)
        self._accounts: dict[str, ScoreAccount] = {}  # by gang
        self.ledger: AnswerLedger[ScoreAccount] = AnswerLedger()

    def begin_step(self) -> None:
        """See `RoutedScores`."""
        self._routed.begin_step(self._base)

    def forget(self, finished: Iterable[str]) -> None:
        """Drop requests that have left the engine."""
        for request_id in finished:
            if self._accounts.pop(request_id, None) is not None:
                self.ledger.close(request_id)
            self._routed.forget(request_id)

    def tracked(self) -> list[str]:
        """Return the gangs whose states or scores are kept."""
        return [*self._routed.tracked(), *self._accounts]

    @torch.inference_mode()
    def composed(self, leader: str, prompt: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the composed logits of what the step in progress has computed of a scored prompt.

        Yields:
            The index in the prompt of the first token that they predict, and the logits `[C, V]`
            float32 of that token and those after it.
        """
        step = self._base.step
        row = step.row_of[leader]
        tag = self._base.tags.by_row[row]
        first = step.computed[row]
        last = min(step.computed_after(row), len(prompt) - 1)
        barrier = len(prompt) - 1 - tag.scored
        if first < barrier or not (places := self._members.places(tag)):
            return
        account = self._account(tag)
        if account is not None and first == barrier:
            account.begin()
        at_once = max(1, PROMPT_CHUNK // tag.size)
        for begin in range(first, last, at_once):
            end = min(begin + at_once, last)
            chunk = self._members.read(tag, places, begin, prompt[begin + 1 : end + 1])
            if account is not None:
                note_further_scores(account, chunk, self._composer)
            if is_routed(tag):
                logits = self._routed.composed(chunk, begin - barrier)
            else:
                logits = self._composer.composed(chunk, tag.weights)
            if account is not None:
                account.composed.append(target_scores(logits, chunk.target_ids).cpu())
                if tag.switch is not None and self._switches is not None:
                    account.choices += self._switches.candidates_between(leader, begin, end)
            yield begin + 1, logits

    def _account(self, tag: RowTag) -> ScoreAccount | None:
        """Return the account of a gang that wants more than prompt logprobs."""
        if tag.scoring is None:
            return None
        if tag.gang not in self._accounts:
            account = self._accounts[tag.gang] = ScoreAccount()
            self.ledger.open(tag.gang, tag.scoring.report_id, lambda: account)
        return self._accounts[tag.gang]
