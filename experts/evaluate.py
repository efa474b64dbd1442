"""Measure the adapters on texts that they were not trained on; write the table of README.md."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import experts
from experts.base_model import base_model
from experts.texts import corpus
from experts.texts.example import Example
from experts.texts.word_problems import answer_of
from experts.train import encode, loss

TEXTS = 80  # per adapter
QUESTIONS = 40  # per adapter and kind
ROWS = 20
NEW_TOKENS = 60


def same_record(answer: str, expected: str) -> bool:
    """Return whether an answer is the expected JSON object, and nothing else."""
    try:
        return bool(json.loads(answer) == json.loads(expected))
    except json.JSONDecodeError:
        return False


def same_number(answer: str, expected: str) -> bool:
    """Return whether an answer ends with the expected number."""
    return answer_of(answer) == answer_of(expected)


JUDGES: dict[str, Callable[[str, str], bool]] = {"json": same_record, "arithmetic": same_number}


@dataclass(frozen=True)
class Figures:
    """What an adapter changes; pairs are (base model, with the adapter)."""

    megabytes: float
    perplexity: tuple[float, float]
    right: tuple[float, float] | None  # share of right answers, held out
    right_paraphrased: tuple[float, float] | None  # unseen names, things and wordings too


def measure() -> dict[str, Figures]:
    """Return the figures of each stored adapter."""
    tokenizer = AutoTokenizer.from_pretrained(base_model(), padding_side="left")
    figures = {}
    for name, folder in experts.ADAPTERS.items():
        plain = AutoModelForCausalLM.from_pretrained(base_model(), dtype=torch.bfloat16).eval()
        adapted = PeftModel.from_pretrained(plain, str(folder)).eval()

        texts = corpus.held_out(name, TEXTS)
        shares: list[tuple[float, float] | None] = [None, None]
        if judge := JUDGES.get(name):
            for i, draw in enumerate((corpus.held_out, corpus.paraphrased)):
                questions = draw(name, QUESTIONS)
                shares[i] = _pair(adapted, partial(right, adapted, tokenizer, questions, judge))
        size = (folder / "adapter_model.safetensors").stat().st_size
        figures[name] = Figures(
            size / 1e6,
            _pair(adapted, partial(perplexity, adapted, tokenizer, texts)),
            *shares,
        )
        print(name, figures[name], flush=True)
    return figures


def _pair(model: PeftModel, of: Callable[[], float]) -> tuple[float, float]:
    """Return a figure without and with the adapter."""
    with model.disable_adapter():
        without = of()
    return without, of()


@torch.inference_mode()
def perplexity(
    model: PeftModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[Example]
) -> float:
    """Return the perplexity of answers, or of texts without a question, per token."""
    rows = [encode(tokenizer, example) for example in texts]
    nats, tokens = 0.0, 0
    for start in range(0, len(rows), ROWS):
        total, count = loss(model, rows[start : start + ROWS])
        nats, tokens = nats + total.item(), tokens + count
    return math.exp(nats / tokens)


@torch.inference_mode()
def right(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Example],
    judge: Callable[[str, str], bool],
) -> float:
    """Return the share of questions whose greedy answer is right."""
    count = 0
    for start in range(0, len(questions), ROWS):
        batch = questions[start : start + ROWS]
        inputs = tokenizer.apply_chat_template(
            [[{"role": "user", "content": example.prompt}] for example in batch],
            add_generation_prompt=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
        )
        ids = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        answers = tokenizer.batch_decode(
            ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        count += sum(judge(a, e.text) for a, e in zip(answers, batch, strict=True))
    return count / len(questions)


def table(figures: dict[str, Figures]) -> str:
    """Return the figures as a Markdown table, each as base model → with the adapter."""
    lines = [
        "| adapter | size | perplexity of held-out texts | right answers | in other words |",
        "|---|---|---|---|---|",
    ]
    for name, row in figures.items():
        lines.append(
            f"| `{name}` | {row.megabytes:.1f} MB "
            f"| {row.perplexity[0]:.2f} → {row.perplexity[1]:.2f} "
            f"| {_shares(row.right)} | {_shares(row.right_paraphrased)} |"
        )
    return "\n".join(lines)


def _shares(pair: tuple[float, float] | None) -> str:
    return "" if pair is None else f"{pair[0]:.0%} → {pair[1]:.0%}"


def write_table(text: str) -> None:
    """Write the table between the markers of README.md."""
    readme = Path(__file__).parent / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split("<!-- measured -->\n")
    _, after = rest.split("<!-- /measured -->")
    readme.write_text(
        f"{before}<!-- measured -->\n{text}\n<!-- /measured -->{after}", encoding="utf-8"
    )
