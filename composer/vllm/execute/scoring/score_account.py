"""What a scored prompt has yielded so far: scores under members and other weights, and moments."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from composer.vllm.execute.answer_ledger import Report


@dataclass(slots=True)
class ScoreAccount:
    """The parts of one scored prompt, each of some consecutive tokens, in their order."""

    composed: list[torch.Tensor] = field(default_factory=list)  # [C] f32 each
    members: list[torch.Tensor] = field(default_factory=list)  # [K, C] f32 each
    weights: list[torch.Tensor] = field(default_factory=list)  # [W, C] f32 each
    divergences: list[torch.Tensor] = field(default_factory=list)  # [W, C] f32 each
    gradients: list[torch.Tensor] = field(default_factory=list)  # [W, K] f64 each
    hessians: list[torch.Tensor] = field(default_factory=list)  # [W, K, K] f64 each
    choices: list[int] = field(default_factory=list)  # candidate of a switch for each token

    def begin(self) -> None:
        """Forget all parts: a preempted prompt is scored again."""
        moments = self.gradients, self.hessians
        for parts in (self.composed, self.members, self.weights, self.divergences, *moments):
            parts.clear()
        self.choices.clear()

    def report(self, tokens: int | None) -> Report:
        """Return `tokens` `[T]`, the log-probabilities; and, where they were asked for, `members`
        `[K, T]`, `weights` `[W, T]`, `divergences` `[W, T]`, `gradients` `[W, K]` and `hessians`
        `[W, K, K]`. Of a switch there is `choices` `[T]`, the candidate that computed what predicts
        each token."""
        report: Report = {"tokens": _joined(self.composed)}
        if self.members:
            report["members"] = _joined(self.members)
        if self.weights:
            report["weights"] = _joined(self.weights)
        if self.divergences:
            report["divergences"] = _joined(self.divergences)
        if self.choices:
            report["choices"] = self.choices
        if self.gradients:
            report["gradients"] = torch.stack(self.gradients).sum(0).tolist()
            report["hessians"] = torch.stack(self.hessians).sum(0).tolist()
        return report


def target_scores(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of each target, `[C]` float32, under logits `[C, V]`."""
    return logits.gather(1, targets.unsqueeze(1)).squeeze(1) - logits.logsumexp(1)


def divergences(log_p: torch.Tensor, composed: torch.Tensor) -> torch.Tensor:
    """Return KL(p || q) in nats, `[C]` float32.

    Args:
        log_p: `[C, V]` float32, log-probabilities.
        composed: `[C, V]` float32, logits of q.
    """
    p = log_p.exp()
    terms = torch.where(p > 0, p * (log_p - composed.log_softmax(1)), 0.0)
    return terms.sum(1).clamp_(min=0.0)  # rounding makes those of equal distributions negative


def moments(
    composed: torch.Tensor, members: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient and the Hessian of the sum of log-probabilities by the weights.

    Args:
        composed: `[C, V]` float32, logits of the composition.
        members: `[K, C, V]` float32, logits of the members.
        targets: `[C]` int64.

    Returns:
        `[K]` and `[K, K]` float64.
    """
    p = composed.softmax(1)
    # A token that a member lacks is impossible under the composition: it must not count.
    members = members.masked_fill(p == 0, 0.0)
    mean = torch.einsum("cv,kcv->kc", p, members)
    members = members - mean.unsqueeze(2)  # first, so that large logits cancel in float32
    of_targets = members.gather(2, targets.view(1, -1, 1).expand(len(members), -1, 1)).squeeze(2)
    covariance = torch.einsum("cv,kcv,jcv->kj", p, members, members)
    return of_targets.double().sum(1), -covariance.double()


def _joined(parts: list[torch.Tensor]) -> list[float]:
    values: list[float] = torch.cat(parts, -1).tolist() if parts else []
    return values
