"""Train base models on text, and LoRA adapters on conversations.

Both use the same loop over batches of token ids with labels: AdamW with a learning rate that rises
briefly and then falls to zero. Weights are float32 during training, and matrix products bfloat16 if
the processor supports it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from composer.reference.masking import lora_at
from zoo.corpus import Corpus
from zoo.tasks import Task
from zoo.tokenizer import ASSISTANT, CONTEXT, END, PAD

IGNORED = -100  # label of a position without loss
HEAD_SIZE = 64  # of attention; the smallest size that vLLM's CPU attention supports
BLOCK = 64  # tokens per row of pre-training text
POOL = 10  # batches of conversations that are drawn together and sorted by length
# Processors without AVX-512 emulate bfloat16, more than ten times slower than float32.
FAST_BFLOAT16 = torch.backends.cpu.get_cpu_capability() == "AVX512"
Progress = Callable[[int, int, float], None]  # step, steps, loss


class Batch(NamedTuple):
    """The data of one step."""

    ids: Tensor  # [B, T] int64
    labels: Tensor  # [B, T] int64
    on: Tensor | None = None  # [B, T] bool: tokens computed with LoRA; None is all


@dataclass(frozen=True)
class Stage:
    """A part of pre-training: shares of text, amount and learning rate."""

    shares: Mapping[str, float]
    tokens: int
    rows: int  # per step
    rate: float
    width: int = BLOCK  # tokens per row


@dataclass(frozen=True)
class Shape:
    """The size of a model and its pre-training."""

    hidden: int
    layers: int
    intermediate: int
    stages: tuple[Stage, ...]
    seed: int  # of the initial weights


@dataclass(frozen=True)
class Round:
    """A part of the training of an adapter, with a learning rate that rises and falls."""

    steps: int
    rate: float = 3e-3
    own_share: float = 0.6  # share of questions in lists that are for the adapter
    late: bool = False  # whether turns in lists may begin a token or two late


@dataclass(frozen=True)
class Course:
    """The training of an adapter."""

    rounds: tuple[Round, ...]
    start: str | None = None  # adapter whose weights to start from
    reads: Mapping[str, float] | None = None  # shares of text to train on instead of conversations
    rows: int = 48  # conversations or blocks of text per step
    rank: int = 16


def new_model(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return an untrained Llama with tied embeddings."""
    heads = shape.hidden // HEAD_SIZE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=HEAD_SIZE,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def pretraining_batches(
    tokenizer: PreTrainedTokenizerFast, corpus: Corpus, steps: int, rows: int
) -> Iterator[Batch]:
    """Yield batches of concatenated documents, cut into rows of `BLOCK` tokens."""
    stream: list[int] = []
    for _ in range(steps):
        while len(stream) < rows * BLOCK:
            texts = corpus.documents(2000)
            for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
                stream += ids
        tokens = torch.tensor(stream[: rows * BLOCK]).view(rows, BLOCK)
        del stream[: rows * BLOCK]
        yield Batch(tokens, tokens)


def conversation_batches(
    tokenizer: PreTrainedTokenizerFast, task: Task, seed: int, steps: int, rows: int
) -> Iterator[Batch]:
    """Yield batches with one conversation per row and labels on the assistant's words only.

    Rows of a batch have similar lengths, to save padding.
    """
    rng = random.Random(f"{task.name} {seed}")
    batches: list[list[tuple[list[int], list[int]]]] = []
    for _ in range(steps):
        if not batches:
            drawn = [_labelled(tokenizer, task.training(rng)) for _ in range(POOL * rows)]
            drawn.sort(key=lambda row: len(row[0]))
            batches = [drawn[i : i + rows] for i in range(0, len(drawn), rows)]
            rng.shuffle(batches)
        yield _padded(batches.pop(), tokenizer)


def _padded(rows: list[tuple[list[int], list[int]]], tokenizer: PreTrainedTokenizerFast) -> Batch:
    """Return a batch of rows of ids and labels, padded on the right."""
    pad = tokenizer.convert_tokens_to_ids(PAD)
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([row + [IGNORED] * (width - len(row)) for _, row in rows])
    return Batch(ids, labels)


def _labelled(
    tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]
) -> tuple[list[int], list[int]]:
    """Return token ids of a conversation, and labels on the assistant's words and ends of turn."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    assistant, end = (tokenizer.convert_tokens_to_ids(token) for token in (ASSISTANT, END))
    labels: list[int] = []
    speaking = False
    for token in ids:
        labels.append(token if speaking else IGNORED)
        speaking = token == assistant or (speaking and token != end)
    return ids, labels


def train(
    model: LlamaForCausalLM | PeftModel,
    batches: Iterable[Batch],
    steps: int,
    rate: float,
    decay: float,
    progress: Progress,
) -> float:
    """Train the weights that require gradients; return the mean loss of the last tenth, in nats."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.98), weight_decay=decay)
    warmup = max(1, steps // 20)
    model.train()
    losses: list[float] = []
    for step, (ids, labels, on) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step, warmup, steps)
        masked = nullcontext() if on is None else lora_at(model, on)
        with torch.autocast("cpu", torch.bfloat16, enabled=FAST_BFLOAT16), masked:
            logits = model(input_ids=ids, use_cache=False).logits  # [B, T, V] bf16 or f32
        loss = cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(loss.item())
        progress(step + 1, steps, losses[-1])
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


def schedule(step: int, warmup: int, steps: int) -> float:
    """Return the factor of the learning rate: a linear rise, then half a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def with_adapter(model: LlamaForCausalLM, rank: int, start: Path | None) -> PeftModel:
    """Return the model with a LoRA adapter to train: a stored one, or a new one."""
    if start:
        return PeftModel.from_pretrained(model, str(start), is_trainable=True)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        bias="none",
        target_modules=[
            *("q_proj", "k_proj", "v_proj", "o_proj"),
            *("gate_proj", "up_proj", "down_proj"),
        ],
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    return adapted
