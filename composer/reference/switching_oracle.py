"""Token-level switching by transformers and PEFT: which adapter computes which token.

One sequence, one KV cache, and for every token an adapter of its own (`Oracle.switched`). Positions
count from the beginning of the prompt, of `P` tokens; token `i` of the answer is predicted by
position `P - 1 + i`. Candidates are adapters by name, None the model alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from composer.reference.oracle import Mismatch, Oracle, leaving


@dataclass(frozen=True, slots=True)
class LinearGate:
    """A classifier on hidden states: one row per candidate, in their order."""

    weight: torch.Tensor  # [K, H] float32
    bias: torch.Tensor  # [K] float32
    stickiness: float = 0.0

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[H]` -> `[K]` float32."""
        return self.weight @ hidden + self.bias

    def next(self, present: int, hidden: torch.Tensor) -> tuple[int, float]:
        """The candidate after `present`, judged by the hidden state of the last token.

        Also by how much the gate would have to change its mind for another one, in logits.
        """
        logits = self.logits(hidden)
        # The present one keeps its place among equals, too.
        lead = logits.clone()
        lead[present] += self.stickiness
        chosen = present if bool(lead[present] >= lead.max()) else int(logits.argmax())
        others = torch.cat([lead[:chosen], lead[chosen + 1 :]])
        margin = float(lead[chosen] - others.max()) if len(others) else float("inf")
        return chosen, margin


@dataclass(frozen=True, slots=True)
class Switched:
    """What a sequence with switches computes."""

    choices: list[int]
    """`[P + len(answer)]`: the candidate of every position."""

    margins: list[float]
    """As long: how clear each choice was, in the gate's logits; infinite where it had none."""

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
    """`[P + len(answer)]`: which of `count` candidates computes every position.

    The prompt goes to `start`; every trigger in the answer goes to the next one already, and the
    last one stays.
    """
    choices = [start] * len(prompt)
    present = start
    for token in answer:
        if token in triggers:
            present = min(present + 1, count - 1)
        choices.append(present)
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
    """A sequence whose candidates a gate chooses.

    The prompt but its last token goes to `candidates[start]`; every later position to the choice of
    the gate, by the hidden state of the position before.

    Args:
        oracle: the models.
        prompt: token ids.
        answer: token ids.
        candidates: adapters by name.
        gate: its rows are in the order of the candidates.
        start: index of a candidate.
        follow: `[len(answer)]`, the candidates under which something else computed the tokens of
            the answer: they are followed, and `choices` and `margins` tell what the gate wants at
            each position, given those before. So a near-tie is judged where it happens, and
            does not change everything after it.
    """
    stream = oracle.stream()
    tokens = [*prompt, *answer]
    first = max(len(prompt) - 1, 1)  # the first position that the gate has a hidden state for
    parts = [stream.read(candidates[start], tokens[:first])]
    choices, margins = [start] * first, [float("inf")] * first
    present = start
    for position in range(first, len(tokens)):
        chosen, margin = gate.next(present, parts[-1][1][-1])
        choices.append(chosen)
        margins.append(margin)
        step = position - (len(prompt) - 1)
        present = follow[step] if follow is not None and step < len(follow) else chosen
        parts.append(stream.read(candidates[present], [tokens[position]]))
    logits, hidden = (torch.cat(part) for part in zip(*parts, strict=True))
    return Switched(choices, margins, logits[len(prompt) - 1 :], hidden)


def switched_mismatches(
    oracle: Oracle,
    prompt: Sequence[int],
    answer: Sequence[int],
    candidates: Sequence[str | None],
    choices: Sequence[int],
) -> list[Mismatch]:
    """Where a greedy answer leaves the oracle's, under these candidates `[P + len(answer)]`."""
    adapters = [candidates[choice] for choice in choices]
    return leaving(oracle.switched(prompt, answer, adapters)[0], answer)


def gated_mismatches(
    oracle: Oracle,
    prompt: Sequence[int],
    answer: Sequence[int],
    candidates: Sequence[str | None],
    gate: LinearGate,
    told: Sequence[int],
    start: int = 0,
) -> tuple[list[Mismatch], list[Mismatch]]:
    """Where a greedy answer, and where its candidates leave the oracle's.

    `told` `[len(answer)]` are the candidates that computed the tokens of the answer. Those in the
    second list are candidates in place of tokens, and `gap` is in the gate's logits.
    """
    result = gated(oracle, prompt, answer, candidates, gate, start, told)
    wanted = result.choices[len(prompt) - 1 :]
    margins = result.margins[len(prompt) - 1 :]
    wrong = [
        Mismatch(step, candidate, expected, margin)
        for step, (candidate, expected, margin) in enumerate(
            zip(told, wanted, margins, strict=False)
        )
        if candidate != expected
    ]
    return leaving(result.logits, answer), wrong


def triggered_greedy(
    oracle: Oracle,
    prompt: Sequence[int],
    candidates: Sequence[str | None],
    triggers: Sequence[int],
    max_tokens: int,
    start: int = 0,
) -> list[int]:
    """The greedy answer whose triggers switch, computed from its beginning for every token."""
    answer: list[int] = []
    while len(answer) < max_tokens:
        choices = trigger_choices(len(candidates), triggers, prompt, answer, start)
        adapters = [candidates[choice] for choice in choices]
        answer.append(int(oracle.switched(prompt, answer, adapters)[0][-1].argmax()))
    return answer


def gated_greedy(
    oracle: Oracle,
    prompt: Sequence[int],
    candidates: Sequence[str | None],
    gate: LinearGate,
    max_tokens: int,
    start: int = 0,
) -> list[int]:
    """The greedy answer whose candidates a gate chooses."""
    answer: list[int] = []
    while len(answer) < max_tokens:
        answer.append(
            int(gated(oracle, prompt, answer, candidates, gate, start).logits[-1].argmax())
        )
    return answer
