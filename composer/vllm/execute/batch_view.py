"""What composition reads from and writes to one of vLLM's model runners.

Sampler, mixtures, adapter switching, probes and auxiliary models use a `BatchView`. `v1`
implements it for the V1 model runner and is the only folder that touches that runner's batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from vllm.lora.request import LoRARequest

from composer.vllm.schedule.gang import RowTag

Sample: TypeAlias = Callable[[torch.Tensor], Any]
"""vLLM's own sampler: logits `[R, V]` to an output with `sampled_token_ids` `[R, 1]`."""

Forward: TypeAlias = Callable[[torch.Tensor, Sample], Any]
"""Compose logits `[R, V]`, sample from them and return the sampler's output."""

LoRAInputs: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], set[LoRARequest]]
"""vLLM's LoRA arguments of a step: the lora_int_id (0: none) of each sampled token and of each
token, and the adapters of the batch."""


@dataclass(slots=True)
class GangTags:
    """The rows of a model's batch that belong to gangs, with their tags."""

    by_row: dict[int, RowTag] = field(default_factory=dict)
    changes: int = 0
    """How often `by_row` has changed."""


@dataclass(frozen=True, slots=True)
class StepRows:
    """The rows of one model in the step in progress, in the order of their logits."""

    row_of: Mapping[str, int]  # request id -> row
    computed: list[int]  # [R] tokens computed before the step
    starts: list[int]  # [R + 1] first token of each row among those of the step, and the end
    discarded: list[bool]  # [R] vLLM discards the sampled token: the prompt is not complete
    prompt_lengths: list[int]  # [R]
    adapters: list[int]  # [R] lora_int_id, 0 for none
    hidden_states: torch.Tensor  # [T, H], of every token
    last_hidden_states: torch.Tensor  # [R, H], of each row's last token

    def computed_after(self, row: int) -> int:
        """Return how many tokens of a row have been computed once the step is done."""
        return self.computed[row] + self.starts[row + 1] - self.starts[row]


class AdapterChoice(Protocol):
    """Decides which adapter computes which token, for requests that may use several."""

    def candidates(self, request_ids: Iterable[str]) -> set[LoRARequest]:
        """Return every adapter that these requests may use; empty if none of them switches."""

    def choose(
        self,
        request_ids: Sequence[str],
        computed: np.ndarray,
        scheduled: np.ndarray,
        inputs: LoRAInputs,
    ) -> LoRAInputs:
        """Return the LoRA arguments of the next step.

        Args:
            request_ids: of the batch's rows.
            computed: `[R]`, tokens of each row that are computed.
            scheduled: `[R]`, tokens of each row that the step computes.
            inputs: what vLLM would use.
        """


class PromptScores(Protocol):
    """Composes the prompts of leaders."""

    def composed(self, leader: str, prompt: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the composed logits of what the step in progress has computed of a scored prompt:
        the index of the first token that they predict, and the logits `[C, V]` float32."""


class BatchView(Protocol):
    """One model runner. `step` and `logits` hold between `begin_sampling` and `end_sampling`, and
    only while `computing`."""

    runner: Any
    tags: GangTags

    def install_sampler(self, forward: Forward) -> None:
        """Let `forward` compose before vLLM's sampler runs. Its `Sample` passes the rows of leaders
        and plain requests to vLLM's sampler; in the output, a companion has any token."""

    def install_prompt_scoring(self, scores: PromptScores) -> None:
        """Let `scores` compute the prompt logprobs of leaders."""

    def install_forced_sampler(self) -> None:
        """Replace the sampler: the rows take the tokens of `force_tokens`."""

    def force_tokens(self, token_ids: torch.Tensor | None) -> None:
        """Set what the rows of this model sample in this step, `[R, 1]`; None if vLLM discards
        the tokens of all of them."""

    def install_adapter_choice(self, choice: AdapterChoice) -> None:
        """Let `choice` decide, before every step, which adapter computes which token."""

    def begin_sampling(self) -> None:
        """Start to read the step in progress: the model has run and will sample."""

    def end_sampling(self) -> None:
        """Release what belongs to the step: the model has sampled."""

    def skip_step(self) -> None:
        """Prepare for a step in which this model has nothing to compute."""

    @property
    def computing(self) -> bool:
        """Whether the model takes part in the step in progress."""

    @property
    def logits(self) -> torch.Tensor | None:
        """`[R, V]` of the step in progress; None if the model takes no part in it."""

    @property
    def step(self) -> StepRows:
        """The rows of the step in progress."""

    @property
    def batch_requests(self) -> Collection[str]:
        """Ids of the requests that hold a place in the batch."""

    @property
    def known_requests(self) -> Collection[str]:
        """Ids of all requests that the runner knows, preempted ones included."""

    def adapters_in_use(self) -> set[int]:
        """Return the lora_int_id of every adapter that a known request uses."""
