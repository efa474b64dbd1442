"""Token-level switching by transformers and PEFT: which adapter computes which token.

One sequence, one KV cache, and an adapter for each token (`Oracle.switched`). Positions count from
the beginning of the prompt of P tokens; position `P - 1 + i` predicts token `i` of the answer.
Candidates are adapters by name, None is the model alone; there are K of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from composer.reference.oracle import Mismatch, Oracle, greedy_answer, greedy_mismatches


@dataclass(frozen=True, slots=True)
class LinearGate:
    """A classifier of hidden states with one row per candidate, in order."""

    weight: torch.Tensor  # [K, H] float32
    bias: torch.Tensor  # [K] float32
    stickiness: float = 0.0

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of the candidates: `[H]` -> `[K]` float32."""
        return self.weight @ hidden + self.bias

    def next(self, current: int, hidden: torch.Tensor) -> tuple[int, float]:
        """Return the candidate after `current`, by the hidden state `[H]` of the last token.

        Also return the margin, in logits, of this choice over the next best one.
        """
        logits = self.logits(hidden)
        # The current candidate also stays in a tie.
        lead = logits.clone()
        lead[current] += self.stickiness
        chosen = current if bool(lead[current] >= lead.max()) else int(logits.argmax())
        others = torch.cat([lead[:chosen], lead[chosen + 1 :]])
        margin = float(lead[chosen] - others.max()) if len(others) else float("inf")
        return chosen, margin


@dataclass(frozen=True, slots=True)
class Switched:
    """A sequence computed with switches."""

    choices: list[int]
    """`[P + len(answer)]`: the candidate of each position."""

    margins: list[float]
    """`[P + len(answer)]`: margin of each choice in logits of the gate; infinite without one."""

    logits: torch.Tensor
    """`[len(answer) + 1, V]` float32, before and after each token of the answer."""

    hidden: torch.Tensor
    """`[P + len(answer), H]` float32."""


def trigger_choices(
    count: int,
    triggers: Sequence[int],
    prompt: Sequence[int],
    answer: Sequence[int],
    start: int = 0,
) -> list[int]:
    """Return `[P + len(answer)]`: which of `count` candidates computes each position.

    `start` computes the prompt. Each trigger in the answer is already computed by the next
    candidate; the last candidate stays.
    """
    choices = [start] * len(prompt)
    current = start
    for token in answer:
        if token in triggers:
            current = min(current + 1, count - 1)
        choices.append(current)
    return choices


def gated(
    oracle: Oracle,
    prompt: Sequence[int],
    answer: Sequence[int],
    candidates: Sequence[str | None],
    gate: LinearGate,
    start: int = 0,
    follow: Sequence[int] | None = None,
) -> Switched:
    """Compute a sequence whose candidates a gate chooses.

    `candidates[start]` computes the prompt except its last token; the gate chooses the candidate of
    each later position by the hidden state of the previous position.

    Args:
        oracle: the models.
        prompt: token ids.
        answer: token ids.
        candidates: adapters by name.
        gate: its rows are in the order of the candidates.
        start: index of a candidate.
        follow: `[len(answer)]`, the candidates with which the engine computed the tokens of the
            answer. They replace the gate's choices, and `choices` and `margins` are those of the
            gate at each position, given these candidates before. So a near-tie counts where it
            occurs, and does not change all later positions.
    """
    stream = oracle.stream()
    tokens = [*prompt, *answer]
    first = max(len(prompt) - 1, 1)  # the first position with a previous hidden state
    runs = [stream.read(candidates[start], tokens[:first])]
    choices, margins = [start] * first, [float("inf")] * first
    current = start
    for position in range(first, len(tokens)):
        chosen, margin = gate.next(current, runs[-1][1][-1])
        choices.append(chosen)
        margins.append(margin)
        step = position - (len(prompt) - 1)
        current = follow[step] if follow is not None and step < len(follow) else chosen
        runs.append(stream.read(candidates[current], [tokens[position]]))
    logits, hidden = (torch.cat(tensors) for tensors in zip(*runs, strict=True))
    return Switched(choices, margins, logits[len(prompt) - 1 :], hidden)


def switched_mismatches(
    oracle: Oracle,
    prompt: Sequence[int],
    answer: Sequence[int],
    candidates: Sequence[str | None],
    choices: Sequence[int],
) -> list[Mismatch]:
    """Return where a greedy answer differs from the oracle's, given choices `[P + len(answer)]`."""
    adapters = [candidates[choice] for choice in choices]
    return greedy_mismatches(oracle.switched(prompt, answer, adapters)[0], answer)


def gated_mismatches(
    oracle: Oracle,
    prompt: Sequence[int],
    answer: Sequence[int],
    candidates: Sequence[str | None],
    gate: LinearGate,
    engine_choices: Sequence[int],
    start: int = 0,
) -> tuple[list[Mismatch], list[Mismatch]]:
    """Return where a greedy answer, and where its candidates differ from the oracle's.

    `engine_choices` `[len(answer)]` are the candidates that computed the tokens of the answer. In
    the second list, `token` and `expected` are candidates, and `gap` is in the gate's logits.
    """
    result = gated(oracle, prompt, answer, candidates, gate, start, engine_choices)
    wanted = result.choices[len(prompt) - 1 :]
    margins = result.margins[len(prompt) - 1 :]
    wrong = [
        Mismatch(step, candidate, expected, margin)
        for step, (candidate, expected, margin) in enumerate(
            zip(engine_choices, wanted, margins, strict=False)
        )
        if candidate != expected
    ]
    return greedy_mismatches(result.logits, answer), wrong


def triggered_greedy(
    oracle: Oracle,
    prompt: Sequence[int],
    candidates: Sequence[str | None],
    triggers: Sequence[int],
    max_tokens: int,
    start: int = 0,
) -> list[int]:
    """Return the greedy answer with triggers, computed from the beginning for each token."""

    def logits(answer: list[int]) -> torch.Tensor:
        choices = trigger_choices(len(candidates), triggers, prompt, answer, start)
        return oracle.switched(prompt, answer, [candidates[choice] for choice in choices])[0]

    return greedy_answer(logits, max_tokens)


def gated_greedy(
    oracle: Oracle,
    prompt: Sequence[int],
    candidates: Sequence[str | None],
    gate: LinearGate,
    max_tokens: int,
    start: int = 0,
) -> list[int]:
    """Return the greedy answer whose candidates a gate chooses."""
    return greedy_answer(
        lambda a: gated(oracle, prompt, a, candidates, gate, start).logits, max_tokens
    )
