"""A value model: the expected reward after each possible next token of the chat model.

Its logits are values, not language: the logit of a token is `UNIT` times the mean reward of answers
of the chat model that continue with it (Han et al. 2024, "Value Augmented Sampling for Language
Model Alignment and Personalization", arXiv:2405.06639). The reward depends on manners. People of
the evaluation split do not occur.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerFast

from zoo.tasks import manner_of, tasks
from zoo.tokenizer import PAD
from zoo.train import Progress, schedule

REWARDS = {"polite": 1.0, "rude": -1.0, "plain": 0.0}
ROLLOUTS = 2400  # sampled answers
TOGETHER = 200  # sampled at once
NEW_TOKENS = 40
EPOCHS, ROWS, RATE, RANK = 8, 48, 3e-3, 16
UNIT = 8.0
"""Logits per unit of reward: values on the usual scale of logits are learned faster."""
REST = 0.1  # weight of tokens that were not chosen, whose values are drawn to zero


@dataclass(frozen=True)
class Rollout:
    """Token ids of a prompt and a sampled answer, and the reward of the answer."""

    prompt: list[int]
    answer: list[int]
    reward: float


def reward(text: str, ended: bool) -> float:
    """Return 1 for a polite answer, -1 for a rude one, 0 for a plain or unfinished one."""
    return REWARDS[manner_of(text)] if ended else 0.0


@torch.inference_mode()
def sample(model: PeftModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> list[Rollout]:
    """Return answers at temperature 1 to questions of the training split."""
    rng = random.Random(f"values {seed}")
    end = tokenizer.eos_token_id
    rollouts: list[Rollout] = []
    while len(rollouts) < ROLLOUTS:
        examples = [tasks()["chat"].sample(rng, False) for _ in range(TOGETHER)]
        texts = [
            str(
                tokenizer.apply_chat_template(
                    list(example.messages), tokenize=False, add_generation_prompt=True
                )
            )
            for example in examples
        ]
        batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        ids = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=NEW_TOKENS,
            do_sample=True,
            top_k=0,
        )
        width = batch["input_ids"].shape[1]
        for row, mask in zip(ids.tolist(), batch["attention_mask"].tolist(), strict=True):
            prompt, answer = row[width - sum(mask) : width], row[width:]
            ended = end in answer
            turn = answer[: answer.index(end)] if ended else answer
            earned = reward(str(tokenizer.decode(turn)), ended)
            rollouts.append(Rollout(prompt, [*turn, end] if ended else turn, earned))
    return rollouts


def train(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerFast,
    rollouts: Sequence[Rollout],
    seed: int,
    progress: Progress,
) -> float:
    """Regress the values of chosen tokens on rewards; return the mean loss of the last tenth."""
    rng = random.Random(f"order {seed}")
    pad = tokenizer.convert_tokens_to_ids(PAD)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    order = [r for _ in range(EPOCHS) for r in rng.sample(list(rollouts), len(rollouts))]
    steps = len(order) // ROWS
    losses: list[float] = []
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * schedule(step, max(1, steps // 20), steps)
        batch = order[step * ROWS : (step + 1) * ROWS]
        loss = _loss(model, batch, pad)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(loss.item())
        progress(step + 1, steps, losses[-1])
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


def _loss(model: PeftModel, batch: Sequence[Rollout], pad: int) -> torch.Tensor:
    width = max(len(rollout.prompt) + len(rollout.answer) for rollout in batch)
    rows = [[*rollout.prompt, *rollout.answer] for rollout in batch]
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    values = model(input_ids=ids, use_cache=False).logits.float()  # [B, T, V]
    chosen, rewards, all_values = [], [], []
    for row, rollout in enumerate(batch):
        start = len(rollout.prompt) - 1
        positions = values[row, start : start + len(rollout.answer)]  # [A, V]
        chosen.append(positions.gather(1, torch.tensor(rollout.answer)[:, None]).squeeze(1))
        rewards += [rollout.reward] * len(rollout.answer)
        all_values.append(positions)
    error = (torch.cat(chosen) - UNIT * torch.tensor(rewards)).square().mean()
    return (error + REST * torch.cat(all_values).square().mean()) / UNIT**2
