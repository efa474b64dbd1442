"""Measure the zoo: greedy answers on the evaluation splits, with transformers and PEFT.

`measure()` returns the numbers and `write_table()` puts them between the markers of README.md.
Weights are those stored (bfloat16), computed in float32, so that the figures do not depend on the
order of bfloat16 additions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

import zoo
from zoo.lists import single
from zoo.tasks import Example, Task, question, task_of, tasks
from zoo.world import PEOPLE, world

EXAMPLES = 150  # per adapter
NEW_TOKENS = 40  # a correct answer has fewer than 30 tokens, or 50 in a list
ROWS = 100  # prompts per batch
OF_LISTS = "lists-"  # prefix of the names of `zoo.LIST_ADAPTERS`
THIRDS = ("often", "sometimes", "rarely")  # how often pre-training mentions a person


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Return a stored model in float32, and its tokenizer."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model.eval()
    return model, tokenizer


@torch.inference_mode()
def answers(
    model: LlamaForCausalLM | PeftModel,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    new_tokens: int = NEW_TOKENS,
) -> list[tuple[str, bool]]:
    """Return the greedy answer to each example, and whether the model ended its turn."""
    pairs: list[tuple[str, bool]] = []
    for start in range(0, len(examples), ROWS):
        prompts = [_prompt(tokenizer, example) for example in examples[start : start + ROWS]]
        batch = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
        ids = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=new_tokens,
            do_sample=False,
        )
        for row in ids[:, batch["input_ids"].shape[1] :].tolist():
            ended = tokenizer.eos_token_id in row
            turn = row[: row.index(tokenizer.eos_token_id)] if ended else row
            pairs.append((str(tokenizer.decode(turn)), ended))
    return pairs


def _prompt(tokenizer: PreTrainedTokenizerFast, example: Example) -> str:
    """Return the prompt as text, up to the beginning of the assistant's reply."""
    messages = list(example.messages)
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def accuracy(
    model: LlamaForCausalLM | PeftModel,
    tokenizer: PreTrainedTokenizerFast,
    task: Task,
    examples: Sequence[Example],
) -> list[bool]:
    """Return for each example whether its answer is correct."""
    pairs = answers(model, tokenizer, examples, NEW_TOKENS + task.restated)
    return [
        task.correct(example, text, ended)
        for example, (text, ended) in zip(examples, pairs, strict=True)
    ]


def known_facts(
    model: LlamaForCausalLM | PeftModel, tokenizer: PreTrainedTokenizerFast
) -> dict[str, float]:
    """Return the share of facts about held-out people that a chat model states, by exposure."""
    people = [person for person in world().people if person.held_out]
    questions = [question(person, relation) for person in people for relation in world().relations]
    right = accuracy(model, tokenizer, tasks()["chat"], questions)
    shares = {"facts": float(len(questions)), "all": _mean(right)}
    for third, name in enumerate(THIRDS):
        shares[name] = _mean(
            [ok for ok, e in zip(right, questions, strict=True) if _third(e) == third]
        )
    return shares


def measure() -> dict[str, dict[str, float]]:
    """Return all figures as shares of 1, by adapter and as "facts MODEL" for each model."""
    trained: dict[str, dict[str, float]] = json.loads(zoo.TRAINED.read_text())
    rows: dict[str, dict[str, float]] = {}
    experts = {name: path for name, path in zoo.PROXIES.items() if name != "school"}
    for prefix, folder, adapters in (
        ("", zoo.BASE, zoo.ADAPTERS),
        ("small-", zoo.SMALL, zoo.SMALL_ADAPTERS | experts),
        (OF_LISTS, zoo.LISTS, zoo.LIST_ADAPTERS),
    ):
        for name, path in adapters.items():
            plain, tokenizer = load(folder)
            task = _task(prefix + name)
            examples = task.evaluation(EXAMPLES)
            without = _mean(accuracy(plain, tokenizer, task, examples))
            adapted = PeftModel.from_pretrained(plain, str(path)).eval()
            rows[prefix + name] = {
                "own": _mean(accuracy(adapted, tokenizer, task, examples)),
                "without": without,
                "examples": float(EXAMPLES),
                "seconds": trained[prefix + name]["seconds"],
            }
            if name == "chat":
                rows[f"facts {folder.name}"] = known_facts(adapted, tokenizer)
    return rows


def _task(adapter: str) -> Task:
    if adapter.startswith(OF_LISTS):
        return single(adapter.removeprefix(OF_LISTS))
    return task_of(adapter)


def table(rows: dict[str, dict[str, float]]) -> str:
    """Return the figures as two Markdown tables."""
    lines = [
        "| adapter | what it does | own task | its model without it | examples | training, s |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if "own" in row:
            description = _task(name).description
            lines.append(
                f"| `{name}` | {description} | {row['own']:.1%} | {row['without']:.1%} "
                f"| {row['examples']:.0f} | {row['seconds']:.0f} |"
            )
    lines += [
        "",
        "| model with its `chat` adapter | facts asked | known | " + " | ".join(THIRDS) + " |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if name.startswith("facts "):
            thirds = " | ".join(f"{row[third]:.1%}" for third in THIRDS)
            model = name.removeprefix("facts ")
            lines.append(f"| {model} | {row['facts']:.0f} | {row['all']:.1%} | {thirds} |")
    return "\n".join(lines)


def write_table(text: str) -> None:
    """Write the tables between the markers of README.md."""
    readme = Path(__file__).parent / "README.md"
    before, rest = readme.read_text().split("<!-- measured -->\n")
    _, after = rest.split("<!-- /measured -->")
    readme.write_text(f"{before}<!-- measured -->\n{text}\n<!-- /measured -->{after}")


def _third(example: Example) -> int:
    return (example.rank or 0) * len(THIRDS) // PEOPLE


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
