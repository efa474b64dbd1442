"""A value model: what reward to expect after each token that the chat model might say next.

Its logits are values, not language: the logit of a token is `UNIT` times the reward that answers of
the chat model get on average once they have said it (Han et al. 2024, "Value Augmented Sampling for
Language Model Alignment and Personalization", arXiv:2405.06639). The reward is a matter of manners.
People that questions of the evaluation split ask about do not occur.
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
TOGETHER = 200  # of them at once
NEW_TOKENS = 40
EPOCHS, ROWS, RATE, RANK = 8, 48, 3e-3, 16
UNIT = 8.0
"""Logits per unit of reward: values on the scale that logits have anyway are learned sooner."""
REST = 0.1  # weight of the tokens that were not said, whose values are drawn to zero


@dataclass(frozen=True)
class Rollout:
    """Token ids of a prompt and of a sampled answer, and what the answer earns."""

    prompt: list[int]
    answer: list[int]
    reward: float


def reward(text: str, ended: bool) -> float:
    """1 for a polite answer, -1 for a rude one, 0 for a plain or endless one."""
    return REWARDS[manner_of(text)] if ended else 0.0


@torch.inference_mode()
def sample(model: PeftModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> list[Rollout]:
    """Answers at temperature 1 to questions of the training split."""
    rng = random.Random(f"values {seed}")
    end = tokenizer.eos_token_id
    found: list[Rollout] = []
    while len(found) < ROLLOUTS:
        asked = [tasks()["chat"].sample(rng, False) for _ in range(TOGETHER)]
        texts = [
            str(
                tokenizer.apply_chat_template(
                    list(example.messages), tokenize=False, add_generation_prompt=True
                )
            )
            for example in asked
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
            said = answer[: answer.index(end)] if ended else answer
            earned = reward(str(tokenizer.decode(said)), ended)
            found.append(Rollout(prompt, [*said, end] if ended else said, earned))
    return found


def train(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerFast,
    rollouts: Sequence[Rollout],
    seed: int,
    progress: Progress,
) -> float:
    """Regress the values of said tokens on rewards. Returns the mean loss of the last tenth."""
    rng = random.Random(f"order {seed}")
    pad = tokenizer.convert_tokens_to_ids(PAD)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    order = [one for _ in range(EPOCHS) for one in rng.sample(list(rollouts), len(rollouts))]
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
    width = max(len(one.prompt) + len(one.answer) for one in batch)
    rows = [[*one.prompt, *one.answer] for one in batch]
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    values = model(input_ids=ids, use_cache=False).logits.float()  # [B, T, V]
    said, rewards, all_values = [], [], []
    for row, one in enumerate(batch):
        start = len(one.prompt) - 1
        positions = values[row, start : start + len(one.answer)]  # [A, V]
        said.append(positions.gather(1, torch.tensor(one.answer)[:, None]).squeeze(1))
        rewards += [one.reward] * len(one.answer)
        all_values.append(positions)
    error = (torch.cat(said) - UNIT * torch.tensor(rewards)).square().mean()
    return (error + REST * torch.cat(all_values).square().mean()) / UNIT**2
