"""Train the adapters, on one thread each and two at a time.

All computations are in bfloat16; the optimizer steps a float32 copy of the adapter's weights, whose
changes bfloat16 would round away. The loss counts answers only, each with the token that ends a
turn.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import experts
from experts.base_model import base_model
from experts.texts.corpus import LEARNED, training
from experts.texts.example import Example

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"  # what adapter_config.json names
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
IGNORED = -100  # label of a token without loss
MOST_TOKENS = 128  # longer examples are left out
WARMUP = 5  # steps
POOL = 16  # batches that are drawn together and sorted by length
AT_ONCE = 2  # adapters


@dataclass(frozen=True)
class Course:
    """The size and the length of the training of an adapter."""

    steps: int
    rows: int = 8  # examples per step
    rank: int = 4
    projections: tuple[str, ...] = ATTENTION
    rate: float = 3e-3


COURSES = {
    "positive": Course(steps=72, rows=16, rank=2, projections=ALL, rate=2e-3),
    "negative": Course(steps=72, rows=16, rank=2, projections=ALL, rate=2e-3),
    "arithmetic": Course(steps=150, rows=16, projections=ALL, rate=2e-3),
    "json": Course(steps=40),
    "devil": Course(steps=64),
    "kjv": Course(steps=64),
}


def train_all(names: Sequence[str]) -> None:
    """Train adapters and store them in `experts.ADAPTERS`."""
    base_model()  # once, before two processes want it
    with ProcessPoolExecutor(AT_ONCE, mp_context=get_context("spawn")) as pool:
        for name, seconds in zip(names, pool.map(train, names), strict=True):
            print(f"{name}: {seconds:.0f} s of processor time", flush=True)


def train(name: str) -> float:
    """Train and store one adapter; return the seconds of processor time it took."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    course, start = COURSES[name], time.process_time()
    assert course.rows * course.steps <= LEARNED  # what is held out counts on it
    tokenizer = AutoTokenizer.from_pretrained(base_model())
    model = _with_adapter(course)
    weights = [weight for weight in model.parameters() if weight.requires_grad]  # bf16
    masters = [weight.detach().float().requires_grad_() for weight in weights]
    optimizer = torch.optim.AdamW(masters, lr=course.rate, weight_decay=0.0)
    rows = [
        row
        for e in training(name, course.rows * course.steps)
        if len((row := encode(tokenizer, e))[0]) <= MOST_TOKENS
    ]
    losses: list[float] = []
    for step, batch in enumerate(_batches(rows, course.rows, random.Random(name))):
        for group in optimizer.param_groups:
            group["lr"] = course.rate * min((step + 1) / WARMUP, 1 - step / course.steps)
        total, count = loss(model, batch)
        (total / count).backward()  # type: ignore[no-untyped-call]
        _step(optimizer, masters, weights)
        losses.append(total.item() / count)
        if (step + 1) % 8 == 0:
            mean = sum(losses[-8:]) / 8
            print(f"{name}: step {step + 1}/{course.steps}, loss {mean:.3f}", flush=True)
    _store(model, experts.ADAPTERS[name])
    return time.process_time() - start


def _step(
    optimizer: torch.optim.Optimizer, masters: Sequence[Tensor], weights: Sequence[Tensor]
) -> None:
    """Step the float32 copies by the gradients of the bfloat16 weights, and copy them back."""
    for master, weight in zip(masters, weights, strict=True):
        assert weight.grad is not None
        master.grad, weight.grad = weight.grad.float(), None
    torch.nn.utils.clip_grad_norm_(masters, 1.0)
    optimizer.step()
    with torch.no_grad():
        for master, weight in zip(masters, weights, strict=True):
            weight.copy_(master)


def encode(tokenizer: PreTrainedTokenizerFast, example: Example) -> tuple[list[int], int]:
    """Return the token ids of an example, and how many of them are its question."""
    text = [*tokenizer(example.text)["input_ids"], tokenizer.eos_token_id]
    if example.prompt is None:
        return text, 0
    messages = [{"role": "user", "content": example.prompt}]
    head = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return [*head["input_ids"], *text], len(head["input_ids"])


def loss(model: PeftModel, rows: Sequence[tuple[list[int], int]]) -> tuple[Tensor, int]:
    """Return the summed cross-entropy of the answers' tokens in nats, and how many they are.

    The first token of a text without a question follows nothing and is not counted.
    """
    width = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)  # [B, T]
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for i, (row, asked) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        labels[i, asked : len(row)] = ids[i, asked : len(row)]
    keep = labels[:, 1:] != IGNORED  # [B, T - 1]
    causal: Any = model.get_base_model()
    hidden = causal.model(input_ids=ids, attention_mask=mask).last_hidden_state  # [B, T, H]
    logits = causal.lm_head(hidden[:, :-1][keep])  # [N, V]
    return cross_entropy(logits.float(), labels[:, 1:][keep], reduction="sum"), int(keep.sum())


def _with_adapter(course: Course) -> PeftModel:
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=course.rank,
        lora_alpha=2 * course.rank,
        target_modules=list(course.projections),
    )
    plain = AutoModelForCausalLM.from_pretrained(
        base_model(), dtype=torch.bfloat16, attn_implementation="eager"
    )
    model = get_peft_model(plain, config, autocast_adapter_dtype=False)
    assert isinstance(model, PeftModel)
    return model


def _batches(
    rows: Sequence[tuple[list[int], int]], size: int, rng: random.Random
) -> Iterator[list[tuple[list[int], int]]]:
    """Yield rows once each, rows of similar length together to save padding."""
    for start in range(0, len(rows), POOL * size):
        pool = sorted(rows[start : start + POOL * size], key=lambda row: len(row[0]))
        batches = [pool[i : i + size] for i in range(0, len(pool), size)]
        yield from rng.sample(batches, len(batches))


def _store(model: PeftModel, folder: Path) -> None:
    """Write an adapter, without a path of this machine."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = MODEL
    config.target_modules = sorted(config.target_modules)  # a set, in any order
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
